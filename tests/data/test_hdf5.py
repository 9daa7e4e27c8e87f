"""HDF5 files as they occur: partly empty, without settings, with LIBERO's names, lists of demonstrations and links."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from action_heads.data import BadData, BadEpisode, Spec, open_windows  # noqa: E402
from action_heads.data.formats import open_recording  # noqa: E402
from action_heads.kinematics.panda import HOME  # noqa: E402

ENV = json.dumps({"env_kwargs": {"control_freq": 20, "robots": ["Panda"]}})
NAMES = {
    "robomimic": ("robot0_joint_pos", "robot0_gripper_qpos"),
    "libero": ("joint_states", "gripper_states"),
}


def motion(steps: int) -> np.ndarray:
    return HOME.numpy() + 0.1 * np.sin(np.linspace(0, 3, steps))[:, None]


def write(path: Path, env_args: object = ENV, names: str = "robomimic", lengths=(40, 41, 42, 43), **attributes) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, value in (attributes | ({} if env_args is None else {"env_args": env_args})).items():
            data.attrs[name] = value
        for i, steps in enumerate(lengths):
            group = data.create_group(f"demo_{i}")
            joints, fingers = NAMES[names]
            group["actions"] = np.where(np.arange(steps) > steps / 2, 1.0, -1.0)[:, None] * np.ones(7)
            group[f"obs/{joints}"] = motion(steps)
            group[f"obs/{fingers}"] = np.linspace([0.04, -0.04], [0, 0], steps)
            group["obs/agentview_rgb"] = np.full((steps, 4, 4, 3), i, np.uint8)
        file["mask/train"] = np.array([b"demo_0", b"demo_2", b"demo_3"])
        file["mask/valid"] = np.array([b"demo_1"])
        file["mask/stale"] = np.array([b"demo_9"])
    return path


def lengths_of(path: Path, options: str, stage: int) -> list[int]:
    spec = Spec.parse(f"robomimic:{path}{options}")
    if stage == 2:
        return open_recording(spec).lengths.tolist()
    native = Spec(spec.kind, spec.where, {**spec.options, "rate": "native"})
    return open_windows(native, 16, "all").trajectories.lengths.tolist()


both_stages = pytest.mark.parametrize("stage", [1, 2])


@both_stages
@pytest.mark.parametrize("empty", ["no rows", "no obs", "nothing"])
@pytest.mark.parametrize("at", [0, 2])
def test_an_empty_demonstration_is_named_or_left_out(tmp_path, stage, empty, at):
    lengths = [40, 41, 42, 43]
    lengths[at] = 0
    path = write(tmp_path / "d.hdf5", lengths=lengths)
    with h5py.File(path, "r+") as file:
        for name in {"no rows": (), "no obs": ("obs",), "nothing": ("obs", "actions")}[empty]:
            del file[f"data/demo_{at}/{name}"]
    with pytest.raises(BadEpisode, match=rf"d\.hdf5.*demo_{at}.* no time steps.*\?short=skip or \?bad=skip"):
        lengths_of(path, "", stage)
    for options in ("?short=skip", "?bad=skip"):
        if stage == 1:
            with pytest.warns(UserWarning, match="left out 1 of 4"):
                assert lengths_of(path, options, stage) == [n for n in lengths if n]
        else:
            assert lengths_of(path, options, stage) == [n for n in lengths if n]


HOLLOW = (None, "", "  ", "null", "[]", "{}", '""', '{"env_kwargs": null}', '{"env_kwargs": {"control_freq": null}}')


@both_stages
@pytest.mark.parametrize("env_args", [*HOLLOW, np.array([b"null"]), h5py.Empty("S1")])
def test_hollow_settings_are_none(tmp_path, stage, env_args):
    assert lengths_of(write(tmp_path / "d.hdf5", env_args), "", stage) == [40, 41, 42, 43]


@both_stages
@pytest.mark.parametrize(
    ("env_args", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "object env_kwargs"),
        ('{"env_kwargs": [1]}', "object env_kwargs"),
        ('{"env_kwargs": 5}', "object env_kwargs"),
        ('{"env_kwargs": {"control_freq": "fast"}}', "control_freq .*recorded_hz.*above 0"),
        ('{"env_kwargs": {"control_freq": 0}}', "control_freq .*recorded_hz.*above 0"),
        ('{"env_kwargs": {"control_freq": true}}', "control_freq .*recorded_hz.*above 0"),
        ('{"env_kwargs": {"control_freq": NaN}}', "control_freq .*recorded_hz.*above 0"),
        ('{"env_kwargs": {"control_freq": 1e400}}', "control_freq .*recorded_hz.*above 0"),
        ("[" * 60_000, "is not JSON"),
        (np.zeros(3), "must be text"),
        (7, "must be text"),
    ],
)
def test_settings_of_another_kind_are_named(tmp_path, stage, env_args, message):
    with pytest.raises(BadData, match=rf"d\.hdf5.*{message}"):
        lengths_of(write(tmp_path / "d.hdf5", env_args), "", stage)


@both_stages
def test_lists_of_demonstrations(tmp_path, stage):
    path = write(tmp_path / "d.hdf5")
    assert lengths_of(path, "?filter_key=train", stage) == [40, 42, 43]
    assert lengths_of(path, "", stage) == [40, 41, 42, 43], "the cache must tell them apart"
    with pytest.raises(BadData, match=r"mask has no 'trian'; it has stale, train, valid.*\?filter_key="):
        lengths_of(path, "?filter_key=trian", stage)
    with pytest.raises(BadData, match="mask/stale names demo_9, which the file does not have"):
        lengths_of(path, "?filter_key=stale", stage)
    with h5py.File(path, "r+") as file:
        del file["mask"]
    with pytest.raises(BadData, match="no list at all"):
        lengths_of(path, "?filter_key=train", stage)


def test_libero_s_columns_in_stage_1(tmp_path):
    ours, theirs = (write(tmp_path / f"{names}.hdf5", names=names) for names in NAMES)
    tables = [open_windows(Spec.parse(f"robomimic:{path}"), 16, "all").trajectories for path in (ours, theirs)]
    assert np.array_equal(*(table.joints for table in tables))
    fingers = open_windows(Spec.parse(f"robomimic:{theirs}?gripper=qpos"), 16, "all").trajectories
    assert set(fingers.gripper.tolist()) == {-1.0, 1.0}


INSTRUCTIONS = {
    "data": lambda file: file["data"].attrs.update(language_instruction="open it"),
    "problem_info": lambda file: file["data"].attrs.update(problem_info='{"language_instruction": "open it"}'),
    "characters": lambda file: file["data"].attrs.update(
        problem_info=json.dumps({"language_instruction": [*"open it"]})
    ),
    "quoted": lambda file: file["data"].attrs.update(problem_info=json.dumps({"language_instruction": '"open it"'})),
    "each": lambda file: [demo.attrs.update(language_instruction="open it") for demo in file["data"].values()],
    "ep_meta": lambda file: [demo.attrs.update(ep_meta='{"lang": "open it"}') for demo in file["data"].values()],
}


@pytest.mark.parametrize("where", INSTRUCTIONS)
def test_the_task_is_what_the_file_says(tmp_path, where):
    path = write(tmp_path / "d.hdf5", names="libero")
    assert open_recording(Spec.parse(f"robomimic:{path}")).tasks == ("",)
    with h5py.File(path, "r+") as file:
        INSTRUCTIONS[where](file)
    recording = open_recording(Spec.parse(f"robomimic:{path}"))
    assert recording.tasks == ("open it",)
    assert recording.default_state(with_images=True) == ("gripper_states", "joint_states")
    with h5py.File(path, "r+") as file:
        file["data/demo_2"].attrs["language_instruction"] = "close it"
    recording = open_recording(Spec.parse(f"robomimic:{path}"))
    words = [recording.tasks[i] for i in recording.task_of]
    assert words == ["open it"] * 81 + ["close it"] * 42 + ["open it"] * 43


@both_stages
def test_states_alone_are_refused_with_what_makes_observations(tmp_path, stage):
    path = tmp_path / "d.hdf5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/states"], file["data/demo_0/actions"] = np.zeros((20, 50)), np.zeros((20, 7))
    with pytest.raises(BadData, match=r"demo_0 has .*dataset_states_to_obs\.py"):
        lengths_of(path, "", stage)


def unwritten(group, name, shape=(40, 7)):
    group.create_dataset(name, shape, "f4")


ODD = {
    "soft link to nothing": lambda group, name: group.__setitem__(name, h5py.SoftLink("/nowhere")),
    "link to itself": lambda group, name: group.__setitem__(name, h5py.SoftLink(f"{group.name}/{name}")),
    "external link": lambda group, name: group.__setitem__(name, h5py.ExternalLink("other.hdf5", "/x")),
    "text": lambda group, name: group.__setitem__(name, np.array([b"a"] * 40)),
    "compound": lambda group, name: group.__setitem__(name, np.zeros(40, [("x", "f4"), ("y", "i4")])),
    "complex": lambda group, name: group.__setitem__(name, np.zeros((40, 7), complex)),
    "scalar": lambda group, name: group.__setitem__(name, 3.0),
    "group": lambda group, name: group.create_group(name),
    "never written": unwritten,
    "huge": lambda group, name: group.create_dataset(name, (2**50, 7), "f4", chunks=(1000, 7)),
    "virtual": lambda group, name: group.create_virtual_dataset(name, h5py.VirtualLayout((40, 7), "f4")),
}


@both_stages
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("at", [0, 1])
def test_what_is_no_array_of_numbers_is_named(tmp_path, stage, odd, at):
    path = write(tmp_path / "d.hdf5", lengths=(40, 40))
    with h5py.File(path, "r+") as file:
        for name in ("actions", "obs/robot0_joint_pos"):
            group = file[f"data/demo_{at}"]
            del group[name]
        ODD[odd](group, "actions")
        ODD[odd](group["obs"], "robot0_joint_pos")
    spec = Spec.parse(f"robomimic:{path}")
    with pytest.raises(BadData, match=r"d\.hdf5"):
        open_windows(spec, 16) if stage == 1 else open_recording(spec).column("actions")


def test_links_within_the_file_are_followed(tmp_path):
    path = write(tmp_path / "d.hdf5")
    with h5py.File(path, "r+") as file:
        file.move("data/demo_1/actions", "kept")
        file["data/demo_1/actions"] = h5py.SoftLink("/kept")
    assert lengths_of(path, "", 1) == lengths_of(path, "", 2) == [40, 41, 42, 43]


@both_stages
def test_a_user_s_mistake_is_not_taken_for_damage(tmp_path, stage):
    """Errors about options that are raised while the file is open do not blame the file."""
    path = write(tmp_path / "d.hdf5")
    for options in ("?recorded_hz=fast", *(("?gripper=both", "?bad=skip&gripper=both") if stage == 1 else ())):
        with pytest.raises(ValueError, match=r"must be a positive number|gripper must be action or qpos") as caught:
            lengths_of(path, options, stage)
        assert "damaged" not in str(caught.value)
