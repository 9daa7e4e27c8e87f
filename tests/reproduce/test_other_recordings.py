"""Runs on other recordings read the right columns, use a fitting head, and roll out in their dialect."""

from dataclasses import replace

import numpy as np
import pytest
from action_heads_lab.reproduce import families, heads, results
from action_heads_lab.reproduce.cells import tables
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.grid import Reproduce, runs
from action_heads_lab.reproduce.images import as_recorded
from action_heads_lab.sim.conventions import DIALECTS

from action_heads.actions.layouts import ActionLayout

h5py = pytest.importorskip("h5py")


def written(path, cameras=("agentview", "robot0_eye_in_hand"), size=84):
    """Write a file of one demonstration as robomimic does."""
    steps, rng = 20, np.random.default_rng(0)
    columns = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        for name, width in columns.items():
            demo[f"obs/{name}"] = rng.random((steps, width), np.float32)
        for camera in cameras:
            demo[f"obs/{camera}_image"] = rng.integers(0, 255, (steps, size, size, 3), np.uint8)
        demo["actions"] = np.clip(rng.normal(size=(steps, 7)), -1, 1)
    return path


def test_the_papers_own_sets_by_their_names():
    (libero,) = runs(Reproduce(task="libero_object", data="official", observe="images", seeds="0"), "libero")
    assert libero.recording == "lerobot:JianZhou0420/libero_libero_object_alldemos_full"
    assert libero.dialect == DIALECTS["libero"]
    assert (libero.demos, libero.steps, libero.checkpoints) == (0, 25_000, 1)
    options = Reproduce(task="stack_d1", data="official", observe="images", seeds="0", head="paper")
    (mimicgen,) = runs(options, "mimicgen")
    assert mimicgen.recording == "lerobot:JianZhou0420/DAH_mimicgen_stack_d1_alldemos"
    assert (mimicgen.demos, mimicgen.steps, mimicgen.checkpoints) == (0, 80_000, 5)
    assert mimicgen.dialect == DIALECTS["mimicgen"]
    assert families.FAMILIES["mimicgen"].image_data(mimicgen, None) == mimicgen.recording, "nothing is recorded"


def test_heads_fit_the_actions(tmp_path):
    """Heads are delta heads on LIBERO, and absolute ones on MimicGen, as in the paper."""
    libero = Run(family="libero", task="libero_object", head="paper", data="lerobot:a/b", observation="image")
    assert heads.bundled(libero) == "dae/mlp-5m-fk-delta"
    assert heads.bundled(replace(libero, family="mimicgen")) == "dae/mlp-5m-fk"
    assert heads.bundled(replace(libero, backbone="mixer")) == "dae/mixer-5m-fk-delta"
    config = heads.stage1(replace(libero, backbone="transformer"), tmp_path)
    assert config
    assert config.action == "delta", "no such transformer is bundled, so it is pretrained"
    assert heads.stage1(libero, tmp_path) is None
    with pytest.raises(ValueError, match="motion of the experts"):
        heads.stage1(replace(libero, stage1=("own",)), tmp_path)


def test_what_is_read_of_a_file(tmp_path):
    data = f"robomimic:{written(tmp_path / 'Lift.hdf5')}"
    run = Run(data=data, observation="image", demos=0)
    flags = as_recorded(run, data)
    assert flags["state"] == ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    assert flags["cameras"] == ("agentview", "robot0_eye_in_hand")
    assert ActionLayout.parse(flags["action_layout"]).mode == "delta"
    assert "resize" not in flags
    large = f"robomimic:{written(tmp_path / 'large.hdf5', size=128)}"
    assert as_recorded(replace(run, data=large), large)["resize"] == (84, 84)
    one = f"robomimic:{written(tmp_path / 'one.hdf5', cameras=('agentview',))}"
    with pytest.raises(ValueError, match="has the cameras agentview, but a run needs two of agentview, robot0"):
        as_recorded(replace(run, data=one), one)


def test_each_recording_is_a_table_of_its_own():
    def result(**changes):
        run = Run(demos=0, observation="image", **changes)
        episode = results.Episode("Lift", 1, True, 9)
        head = {"name": "h", "fingerprint": "f", "frozen": 1, "trainable": 1}
        return results.Result(str(run), run, (episode,), head, {}, [], {}, "", "")

    mine, theirs = "robomimic:mine/{task}.hdf5", "robomimic:theirs/{task}.hdf5"
    found = tables([result(data=mine), result(data=mine, task="Stack"), result(data=theirs)])
    assert [len(table.cells) for table in found] == [2, 1]
    assert found[0].title.startswith(f"Images, {mine}, head")


@pytest.mark.parametrize(
    ("options", "family", "message"),
    [
        ({"data": "official"}, "mimicgen", "needs --observe images"),
        ({"data": "official", "observe": "images", "demos": 9}, "mimicgen", "Leave --demos out"),
        (
            {"data": "npz:a.npz", "observe": "images"},
            "robosuite",
            "no images; choose from experts, official",
        ),
        ({"data": "official", "observe": "images"}, "robosuite", "no official recording of robosuite"),
    ],
)
def test_refusals(options, family, message):
    with pytest.raises(ValueError, match=message):
        runs(Reproduce(all=True, **options), family)
