"""Settings that cannot work are refused before training, and the message names their flag."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from action_heads_lab.adapted import check_task
from recorded import LENGTH, describe, episode, hdf5, tiny

from action_heads import ActionHead
from action_heads.adapt.build import build
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig

STATES = {"encoder": "none", "cameras": ()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "synthetic:panda"}, r"--data: .*no observations.*lerobot:.* and robomimic:"),
        ({"data": "npz:motion.npz"}, r"--data: .*no observations"),
        ({"data": "robomimic:a.hdf5@2"}, r"--data: .*has a weight or options of Stage 1"),
        ({"data": "lerobot:a?arm=panda"}, r"--data: .*has a weight or options of Stage 1"),
        ({"mode": "thawed"}, r"--mode is 'thawed'; choose one of decoupled"),
        ({"adapter": "lora"}, r"--adapter is 'lora'; choose one of film"),
        ({"train_encoder": "half"}, r"--train-encoder is 'half'; choose one of trained, frozen, cached"),
        ({"train_encoder": "frozen"}, r"--train-encoder, --weights: a ResNet without weights can't be frozen"),
        ({"encoder": "none"}, r"--cameras names cameras, but --encoder is none"),
        ({"weights": "mine"}, r"--weights.*'imagenet' or none"),
        ({"features": 7}, r"--features.*an even number"),
        ({"levels": "high"}, r"--levels: "),
        ({"through": "windows"}, r"--through: unknown path"),
        ({"action_layout": "pose"}, r"--action-layout, --gripper: unknown part 'pose'"),
        ({"steps": 0}, r"--steps must be at least 1"),
        ({"encoder_lr": 0.0}, r"--encoder-lr must be positive"),
        ({"encoder_lr": float("inf")}, r"--encoder-lr must be finite, got inf"),
        ({"weight_decay": float("inf")}, r"--weight-decay must be 0 or more and below 2\^63, got inf"),
        ({"seed": 10**20}, r"--seed must be 0 or more and below 2\^63"),
        ({"horizon": 10**20}, r"--horizon must be at least 1 and below 2\^63"),
        ({"held_out": 1.0}, r"--held-out must be at least 0 and below 1"),
        ({"sampler": "magic"}, r"--sampler is 'magic'; choose one of"),
    ],
)
def test_flags(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path, **changes)


def test_nothing_is_asked_of_defaults():
    """Default settings are valid, so that help can show them. Only a run needs data."""
    with pytest.raises(ValueError, match=r"--data: no recording is given"):
        adapt(AdaptConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "robomimic:/nowhere.hdf5"}, r"--data: .*there is no file /nowhere.hdf5"),
        ({"head": "dae/mlp-9m-fk"}, r"--head: .*dae/mlp-9m-fk(.|\n)*dae/mlp-5m-fk"),
        ({"encoder": "/no/such/model"}, r"--encoder.*no folder '/no/such/model'"),
        ({"text": "/no/such/model"} | STATES, r"--text: text.model: no folder '/no/such/model'"),
        ({"cameras": ("top",)}, r"--cameras, --encoder: .*no camera top; it has agentview, wrist"),
        ({"state": ("torque",)}, r"--state: .*no column 'torque'; it has fingers \(1\), position \(3\)"),
        ({"state": ("position[2:5]",)}, r"--state: 'position\[2:5\]' is out of range: its column has 3 values"),
        ({"action": "targets"}, r"--action: .*no column 'targets'"),
        (
            {"action_layout": "libero"},
            r"--action-layout: layout 'libero' has 7 columns, but the dataset's actions have 10",
        ),
        ({"gripper": (0.0, 1.0)} | STATES, r"--action-layout, --gripper: column 9, the gripper, runs from -1 to 1"),
        (
            {"execute": 17, "task": "Lift"} | STATES,
            r"--execute 17 is more than the 16 actions of a chunk. Lower it, or set --horizon",
        ),
        ({"crop": (20, 20)}, r"--crop.*\(20, 20\) is larger than the images, 16 x 16"),
        ({}, r"--crop, --resize, --encoder: the feature map is 1 x 1, too small"),
        ({"prefixes": True} | STATES, r"--prefixes, --head: "),
        ({"adapter": "cross_attention"} | STATES, r"--adapter.*--head: .*was pretrained for"),
    ],
)
def test_what_does_not_fit_the_data(folder, changes, message):
    describe(folder / "demos.hdf5")
    with pytest.raises(ValueError, match=message):
        build(tiny(folder, **changes))


def test_no_images(folder):
    hdf5(folder / "demos.hdf5", without=("agentview_image", "wrist_rgb"))
    with pytest.raises(ValueError, match=r"--cameras, --encoder: .*no images.*--encoder none"):
        build(tiny(folder, cameras=()))


def test_numbers_that_are_none(folder):
    broken = episode(0)["actions"]
    broken[5] = np.nan
    hdf5(folder / "demos.hdf5", episodes=1, actions=broken)
    with pytest.raises(ValueError, match=r"--action: 1 of 12 rows are NaN or infinite, the first is row 5"):
        build(tiny(folder, **STATES))


def test_parts_of_different_length(folder):
    hdf5(folder / "demos.hdf5", episodes=1, fingers=np.zeros((LENGTH - 1, 1)))
    with pytest.raises(ValueError, match=r"--data: .*demo_0: columns have different numbers of rows, \[11, 12\]"):
        build(tiny(folder, **STATES))


def test_a_folder_that_is_no_dataset(folder):
    with pytest.raises(ValueError, match=r"--data: .*no meta/info.json, so it is not a LeRobotDataset"):
        build(tiny(folder, data=f"lerobot:{folder}"))
    with pytest.raises(ValueError, match=r"--data: .*there is no folder /no/such\. .*OWNER/NAME"):
        build(tiny(folder, data="lerobot:/no/such"))


def test_a_missing_extra_is_named(folder, monkeypatch):
    for module in ("lerobot", "lerobot.datasets.lerobot_dataset", "h5py"):
        monkeypatch.setitem(sys.modules, module, None)
    (folder / "meta").mkdir()
    (folder / "meta/info.json").write_text("{}")
    for data, extra in ((f"lerobot:{folder}", "lerobot"), (f"robomimic:{folder / 'demos.hdf5'}", "data")):
        with pytest.raises(ImportError, match=rf"action-heads\[{extra}\]"):
            build(tiny(folder, data=data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "Juggle"}, r"--task: unknown task 'Juggle'"),
        ({"task": "Lift"}, r"--task: the policy observes position, fingers, but the simulation cannot provide"),
        ({"task": "Lift", "action_layout": "joint:9 gripper", "state": ("none",), "text": True}, r"--task: .*poses"),
    ],
)
def test_a_task_that_the_policy_cannot_do(folder, tmp_path_factory, changes, message):
    pytest.importorskip("robosuite")
    if changes.get("text"):
        from tiny_models import text_model

        changes = changes | {"text": text_model(tmp_path_factory.mktemp("text"))}
        describe(folder / "demos.hdf5")
    config = tiny(folder, **STATES | changes)
    with pytest.raises(ValueError, match=message):
        check_task(config, build(config).policy)


def test_no_more_episodes_than_init_states(folder):
    pytest.importorskip("robosuite")
    config = tiny(folder, **STATES, task="libero_object/0", episodes=51)
    with pytest.raises(
        ValueError, match=r"--episodes: 51 episodes of libero_object/0 are more than its 50 init states"
    ):
        check_task(config, build(config).policy)


def test_rotations_that_are_none_are_found_before_training(folder):
    """A rotation of zeros encodes to NaN, and joints that are taken for a rotation to another one."""
    actions = episode(0)["actions"]
    actions[3, 3:9] = 0
    other = episode(1)["actions"]
    other[:, 3:9] = 0.7
    for name, rows in (("one", actions), ("all", np.concatenate([other] * 2)[: len(actions)])):
        hdf5(folder / f"{name}.hdf5", episodes=1, **episode(0) | {"actions": rows})
    with pytest.raises(ValueError, match=r"--action-layout: 1 of 12 rows hold no rotation .* row 3 \(.*demo_0"):
        build(tiny(folder, **STATES, data=f"robomimic:{folder / 'one.hdf5'}"))
    with pytest.raises(ValueError, match=r"--action-layout: .* most rows of the action hold none there"):
        build(tiny(folder, **STATES, data=f"robomimic:{folder / 'all.hdf5'}"))


def test_a_run_goes_on_only_with_data_of_the_same_conventions(folder):
    adapt(tiny(folder, **STATES))
    other = [episode(index) for index in range(2)]
    for each in other:
        each["actions"][:, 9] = (each["actions"][:, 9] + 1) / 2  # 0 is open, 1 closed
    hdf5(folder / "other.hdf5", episodes=1, **other[0])
    for start in ({}, {"start_from": folder / "run"}):
        with pytest.raises(ValueError, match="the gripper, runs from 0 to 1 but is assumed to be -1 open"):
            build(tiny(folder, **STATES, **start, data=f"robomimic:{folder / 'other.hdf5'}"))


def test_a_start_that_has_a_head_already(folder):
    adapt(tiny(folder, **STATES))
    with pytest.raises(ValueError, match=r"--start-from: --mode chooses a fresh head"):
        build(tiny(folder, **STATES, start_from=folder / "run", mode="normal"))
    with pytest.raises(ValueError, match=r"--start-from: "):
        build(tiny(folder, **STATES, start_from=folder / "head"))
    assert ActionHead.from_pretrained(folder / "head").frozen


def test_bad_episodes_are_left_out_if_asked(folder):
    """An episode with a NaN and one without a rotation are named, or left out with a warning."""
    with h5py.File(folder / "demos.hdf5", "r+") as file:
        file["data/demo_2/obs/position"][4, 1] = np.nan
        file["data/demo_4/actions"][3, 3:9] = 0
    data = f"robomimic:{folder / 'demos.hdf5'}"
    with pytest.raises(ValueError, match=r"--state: 1 of 87 rows .*demo_2, time step 4.*\?bad=skip"):
        build(tiny(folder, **STATES))
    with pytest.warns(UserWarning, match=r"left out 2 of 6 episodes\. The first: .*demo_2, time step 4 is NaN"):
        built = build(tiny(folder, **STATES, data=f"{data}?bad=skip"))
    assert built.windows.recording.names == ("demo_0", "demo_1", "demo_3", "demo_5")
    assert len(built.windows) == len(built.windows.recording.task_of) == sum(LENGTH + i for i in (0, 1, 3, 5))
    expected = np.concatenate([episode(i)["actions"] for i in (0, 1, 3, 5)])
    assert np.allclose(built.windows.actions, expected)
    with h5py.File(folder / "demos.hdf5", "r+") as file:
        for i in (0, 1):
            file[f"data/demo_{i}/actions"][0, 0] = np.inf
    with pytest.raises(ValueError, match=r"--data: .*4 of 6 episodes are bad, the first: .*demo_0, time step 0"):
        build(tiny(folder, **STATES, data=f"{data}?bad=skip"))


def test_a_wrong_layout_is_no_bad_episode(folder):
    with h5py.File(folder / "demos.hdf5", "r+") as file:
        for demo in file["data"].values():
            demo["actions"][:, 3:9] = 0.7
    with pytest.raises(ValueError, match=r"--action-layout: .* most rows of the action hold none there"):
        build(tiny(folder, **STATES, data=f"robomimic:{folder / 'demos.hdf5'}?bad=skip"))
