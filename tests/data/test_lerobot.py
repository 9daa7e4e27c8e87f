"""The reader of LeRobotDataset v3, with DROID's columns and recorded numbers."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

pytest.importorskip("pyarrow")
from lerobot_fixture import DROID, droid, droid_episodes, write

from action_heads.data import SCHEMAS, BadData, Spec, lerobot, open_windows
from action_heads.data.lerobot import LeRobot
from action_heads.data.opening import read
from action_heads.kinematics import forward
from action_heads.pretrain import data


@pytest.fixture
def folder(tmp_path) -> Path:
    return droid(tmp_path / "droid_1.0.1")


def opened(folder: Path, options: str = "", steps: int = 16, split: str = "all"):
    return open_windows(Spec.parse(f"lerobot:{folder}{options}"), steps, split)


def test_droid_s_joints_lead_to_its_recorded_flange(folder):
    file, table = np.load(DROID, allow_pickle=False), read(Spec.parse(f"lerobot:{folder}"))
    np.testing.assert_array_equal(table.joints, file["joint_position"])
    assert table.lengths.tolist() == file["episode_length"].tolist()
    assert table.names == ("episode_000000", "episode_000001", "episode_000002")
    assert table.corpora == ("droid_1.0.1",) * 3
    position, _ = forward(table.joints.double(), "flange")
    assert np.abs(position.numpy() - file["cartesian_position"][:, :3]).max() < 1e-4  # a tenth of a millimetre
    assert (table.gripper.numpy() == np.where(file["gripper"] > 0.5, 1, -1)).all()


def test_poses_without_joints_are_the_same(folder, tmp_path):
    """The recorded flange pose, moved to the TCP, equals the forward kinematics."""
    columns = {
        "position": "observation.state.cartesian_position[:3]",
        "rotation": "observation.state.cartesian_position[3:]",
        "rotation_form": "euler_xyz",
        "gripper": "observation.state[7]",
        "frame": "flange",
    }
    (tmp_path / "map.json").write_text(json.dumps(columns))
    poses, joints = opened(folder, f"?columns={tmp_path}/map.json"), opened(folder)
    index = torch.arange(0, len(joints), 7)
    torch.testing.assert_close(poses[index].poses, joints[index].poses, atol=1e-6, rtol=0)
    assert poses[index].joints is None


def test_one_shard_in_memory_at_a_time(tmp_path, monkeypatch):
    folder = write(tmp_path / "many", [droid_episodes()[0]] * 6, 15, a_file=1)
    alive, most, original = weakref.WeakSet(), 0, LeRobot._read

    class Shard(list):
        __hash__ = object.__hash__

    def counted(self, *given):
        nonlocal most
        shard = Shard(original(self, *given))
        alive.add(shard)
        gc.collect()
        most = max(most, len(alive))
        return shard

    monkeypatch.setattr(LeRobot, "_read", counted)
    assert len(read(Spec.parse(f"lerobot:{folder}"))) == 6
    assert most <= 2  # the one that is read, and the one that the loop still holds
    monkeypatch.setattr(LeRobot, "_read", lambda *_: pytest.fail("read again, though it is in the cache"))
    monkeypatch.setattr(lerobot, "read_episodes", lambda *_: pytest.fail("episodes read, though they are in the cache"))
    assert len(read(Spec.parse(f"lerobot:{folder}"))) == 6


def test_a_changed_file_is_read_again(folder):
    first = read(Spec.parse(f"lerobot:{folder}"))
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"fps": 16}))  # within what timestamps may jitter
    assert len(read(Spec.parse(f"lerobot:{folder}")).gripper) < 0.95 * len(first.gripper)
    rewritten(folder, EPISODES, lambda t: t.update(length=[length + 1 for length in t["length"]]))
    with pytest.raises(BadData, match="but rows 0 to 167 of the dataset"):
        read(Spec.parse(f"lerobot:{folder}"))


def test_hub(folder, monkeypatch):
    """Stage 1 downloads info.json, then the metadata and data files, but no videos."""
    import huggingface_hub

    asked = []

    def snapshot_download(repo_id, **given):
        asked.append((repo_id, given))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    windows = open_windows(Spec.parse("lerobot:lerobot/droid_1.0.1?revision=v3.0"), 16, "all")
    assert windows.trajectories.corpora[0] == "droid_1.0.1"
    common = {"repo_type": "dataset", "revision": "v3.0"}
    assert asked == [
        ("lerobot/droid_1.0.1", {**common, "allow_patterns": ["meta/info.json"]}),
        ("lerobot/droid_1.0.1", {**common, "allow_patterns": ["meta/*", "data/*"]}),
    ]


@pytest.mark.parametrize("trouble", ["unreachable", "offline", "unknown"])
def test_a_hub_that_does_not_oblige(monkeypatch, trouble):
    """Errors of the Hub name the source and the remedy. No request leaves this machine."""
    import huggingface_hub
    from huggingface_hub import errors

    class Unknown(errors.RepositoryNotFoundError):
        def __init__(self):  # The client's own needs a response of its HTTP library, which changes with its versions.
            Exception.__init__(self, "404 Client Error")

    def snapshot_download(repo_id, **given):
        if trouble == "unknown":
            raise Unknown
        cause = errors.OfflineModeIsEnabled("off") if trouble == "offline" else ConnectionError("no route to host")
        raise errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder") from cause

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    says = {"unreachable": "no route to host", "offline": "HF_HUB_OFFLINE is set", "unknown": "check the spelling"}
    with pytest.raises(OSError, match=says[trouble]) as caught:
        open_windows(Spec.parse("lerobot:lerobot/droit?bad=skip"), 16)
    assert str(caught.value).startswith("lerobot:lerobot/droit?bad=skip: there is no folder lerobot/droit here, and")
    assert "lerobot:/path/to/it" in str(caught.value)


def libero(steps: int = 40, width: int = 8) -> dict[str, np.ndarray]:
    """Return an episode with LIBERO's columns, as LeRobot publishes them: a hand that moves along x."""
    state, action = np.zeros((steps, width)), np.zeros((steps, 7))
    state[:, 0], state[:, 2], state[:, 3] = np.linspace(0, 0.1, steps), 1.1, np.pi
    action[:, 6] = np.where(np.arange(steps) < 20, -1, 1)
    return {"observation.state": state, "action": action}


def test_libero(tmp_path):
    folder = write(tmp_path / "libero", [libero(), libero()], 20)
    with pytest.raises(BadData, match=r"world frame.*\?base=-0.56,0,0.912.*\?base=world"):
        opened(folder)
    placed, kept = opened(folder, "?base=-0.6,0,0.9&rate=native"), opened(folder, "?base=world&rate=native")
    assert placed.trajectories.rate_hz == 20
    poses, world = (w[torch.tensor([0])].poses[0] for w in (placed, kept))
    torch.testing.assert_close(world[:, :3] - poses[:, :3], torch.tensor([-0.6, 0.0, 0.9]).expand(16, 3))
    assert poses[0, 9] == -1
    # robosuite's hand points down: the TCP lies 6.9 mm below the recorded point
    torch.testing.assert_close(world[0, 2], torch.tensor(1.1 - 0.0069), atol=1e-5, rtol=0)
    for wrong in ("0,0", "a,b,c"):
        with pytest.raises(ValueError, match=f"base must be x,y,z in m, or world, but is '{wrong}'"):
            opened(folder, f"?base={wrong}")


def test_base_is_refused_where_poses_are_in_it(folder):
    with pytest.raises(ValueError, match=r"in the base frame already\. Leave out \?base="):
        opened(folder, "?base=1,2,3")


def rewritten(folder: Path, path: str, change) -> None:
    """Change the columns of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(folder / path).to_pydict()
    change(table)
    pq.write_table(pa.table(table), folder / path)


EPISODES, DATA = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"


def test_episodes_that_are_missing(folder):
    rewritten(folder, EPISODES, lambda t: t.update(episode_index=[0, 2, 3]))
    with pytest.raises(BadData, match="not contiguous in meta/episodes: found 2 instead of 1"):
        opened(folder)


def test_rows_that_are_missing(folder):
    rewritten(folder, DATA, lambda t: [values.pop(100) for values in t.values()])
    with pytest.raises(BadData, match=r"file-000\.parquet has 432 rows, but meta/episodes counts 433"):
        opened(folder)


def test_rows_in_another_order(folder):
    rewritten(folder, DATA, lambda t: t["frame_index"].__setitem__(200, 7))
    with pytest.raises(BadData, match="episode 1 is not contiguous, its row 33 has frame_index 7"):
        opened(folder)


def test_nan_rows(folder):
    rewritten(folder, DATA, lambda t: t["observation.state.joint_position"][170].__setitem__(2, float("nan")))
    with pytest.raises(BadData, match=r"episode episode_000001, joints: 1 of 266 rows.*row 3.*\?bad=skip"):
        opened(folder)
    with pytest.warns(UserWarning, match="left out 1 of 3 episodes"):
        assert opened(folder, "?bad=skip").trajectories.names == ("episode_000000", "episode_000002")


def test_mostly_bad_is_bad(tmp_path):
    episodes = droid_episodes()
    for episode in episodes[:2]:
        episode["observation.state.joint_position"][5] = np.nan
    with pytest.raises(BadData, match="2 of 3 episodes are bad, the first"):
        opened(write(tmp_path / "d", episodes, 15), "?bad=skip")


def test_degrees(tmp_path):
    episodes = droid_episodes()
    for episode in episodes:
        episode["observation.state.joint_position"] = np.rad2deg(episode["observation.state.joint_position"])
    with pytest.raises(BadData, match=r"episode_000000, row 0.*look like degrees"):
        opened(write(tmp_path / "d", episodes, 15))


def test_missing_columns(tmp_path):
    episodes = [{k: v for k, v in e.items() if "gripper" not in k} for e in droid_episodes()]
    with pytest.raises(ValueError, match=r"nearest map, droid, the recording lacks gripper"):
        opened(write(tmp_path / "d", episodes, 15))


def test_short_episodes(folder):
    with pytest.raises(
        BadData, match=r"1 of 3 episodes are shorter than a window of 200.*episode_000000 \(167\).*\?short=skip"
    ):
        opened(folder, steps=200)
    assert len(opened(folder, "?short=skip", steps=200)) == (266 - 199) + (411 - 199)


def test_short_episodes_are_left_out_before_the_split_and_the_count(folder):
    """The split only counts episodes that are long enough: one of the two that remain is held out."""
    spec = f"lerobot:{folder}?short=skip"
    splits = {split: opened(folder, "?short=skip", 200, split).episodes for split in ("train", "held_out")}
    assert [len(names) for names in splits.values()] == [1, 1]
    assert {*splits["train"], *splits["held_out"]} == {f"droid_1.0.1/episode_00000{i}" for i in (1, 2)}
    record = data.Mixture([spec], 200, "all").record[0]
    assert record["episodes"] == 2
    assert record["hours"] == round((266 + 411) / 15 / 3600, 3)
    with pytest.raises(
        BadData, match=r"^lerobot:.*\?short=skip: none of its 3 .*500 time steps at 15 Hz; .*has 411\. .*--horizon"
    ):
        opened(folder, "?short=skip", 500)
    with pytest.raises(
        BadData,
        match=r"none of its 3 .* of at least 300 time steps is in the split 'train'.*Record at least two such episodes",
    ):
        opened(folder, "?short=skip", 300, "train")


def test_the_gripper_is_the_command_not_the_state(tmp_path):
    episodes = droid_episodes()
    for episode in episodes:
        episode["observation.state.gripper_position"] = np.zeros_like(episode["action.gripper_position"])
    table = opened(write(tmp_path / "d", episodes, 15)).trajectories
    assert (table.gripper == 1).any()


def test_other_things_than_datasets(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="OWNER/NAME"):
        opened(tmp_path / "none")
    with pytest.raises(BadData, match=r"no meta/info\.json"):
        opened(tmp_path)
    (folder / DATA).unlink()
    with pytest.raises(BadData, match=r"lacks data/chunk-000/file-000\.parquet"):
        opened(folder)
    rewritten(folder, EPISODES, lambda t: [values.clear() for values in t.values()])
    with pytest.raises(BadData, match="no episodes"):
        opened(folder)
    with pytest.raises(BadData, match=rf"version v2\.1, but only v3 .*: convert .* --root='{tmp_path}/my data' --push"):
        opened(write(tmp_path / "my data", droid_episodes(), 15, codebase_version="v2.1"))
    with pytest.raises(BadData, match="counts 9 episodes, but meta/episodes has 3"):
        opened(write(tmp_path / "cut", droid_episodes(), 15, total_episodes=9))


def test_droid_s_fr3_arms_are_read(tmp_path):
    """The built-in map accepts joints beyond the Panda's limits as the FR3's; a map without `fr3` does not."""
    episodes = droid_episodes()
    joints = np.tile([0.0, -0.785, 0.0, -2.356, 0.0, 4.31, -3.0168], (40, 1))
    position, matrix = forward(torch.from_numpy(joints), "flange")
    turn = Rotation.from_matrix(matrix.numpy()).as_euler("xyz")
    alone = {name: values[:40] for name, values in episodes[0].items()}
    alone["observation.state.joint_position"] = joints
    alone["observation.state.cartesian_position"] = np.concatenate([position.numpy(), turn], axis=1)
    folder = write(tmp_path / "droid_1.0.1", [*episodes, alone], 15)
    assert opened(folder).trajectories.lengths.tolist()[-1] == 40
    columns = {key: value for key, value in SCHEMAS["droid"].to_dict().items() if key != "fr3"}
    (tmp_path / "droid.json").write_text(json.dumps(columns), encoding="utf-8")
    with pytest.raises(BadData, match=r"episode_000003, row 0: joint 5 is 4\.31, outside .* of panda"):
        opened(folder, f"?columns={tmp_path}/droid.json")


def test_rows_and_episodes_are_matched_by_their_indices(folder):
    first = opened(folder).trajectories
    for path in (DATA, EPISODES):
        rewritten(folder, path, lambda t: t.update({name: values[::-1] for name, values in t.items()}))
    second = opened(folder).trajectories
    order = [first.names.index(name) for name in second.names]
    assert [first.lengths[i] for i in order] == second.lengths.tolist()
    for i, name in enumerate(second.names):
        a, b = first.starts[first.names.index(name)], second.starts[i]
        assert torch.equal(first.joints[a : a + 10], second.joints[b : b + 10])


def test_joints_that_may_be_normalised_are_told(tmp_path):
    """There is a warning if the joints are declared as degrees but the robot_type may record -100 to 100."""
    episode = {"q": np.full((40, 7), 60.0), "pose": np.tile([0.4, 0, 0.3, 0, 0, 0, 1.0], (40, 1))}
    columns = {"joints": "q", "joints_unit": "deg", "position": "pose[0:3]", "rotation": "pose[3:7]", "arm": None}
    (tmp_path / "map.json").write_text(json.dumps(columns), encoding="utf-8")
    for robot in ("so100_follower", "so101_follower", "so_follower"):
        folder = write(tmp_path / robot, [episode], 15, robot_type=robot)
        with pytest.warns(UserWarning, match=r"no joint exceeds 60.*use_degrees=true"):
            opened(folder, f"?columns={tmp_path}/map.json")


def test_lists_of_uneven_length_are_not_taken_for_rows(tmp_path):
    """Rows of 6 and 8 values are refused, although together they have as many values as two rows of 7."""
    import pyarrow as pa

    folder = write(tmp_path / "d", droid_episodes(), 15)

    def uneven(t):
        rows = [list(row) for row in t["observation.state.joint_position"]]
        rows[3], rows[4] = rows[3][:6], [*rows[4], 0.0]
        t["observation.state.joint_position"] = pa.array(rows, pa.list_(pa.float32()))

    rewritten(folder, DATA, uneven)
    with pytest.raises(BadData, match=r"observation\.state\.joint_position, row 3 has 6 values, but row 0 has 7"):
        opened(folder)


def test_paths_of_options_and_of_files(tmp_path, monkeypatch):
    """`~` is the home folder in every path of a spec, and the arm of a column map is found beside the map."""
    home = tmp_path / "home"
    write(home / "d", [{"q": np.zeros((20, 6)), "grip": np.zeros((20, 1))}], 15)
    (home / "arms").mkdir()
    shutil.copy(Path(__file__).parents[1] / "kinematics/data/six.urdf", home / "arms")
    (home / "map.json").write_text('{"joints": "q", "gripper": "grip", "arm": "arms/six.urdf"}')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir("/")
    for options in ("columns=~/map.json", f"columns={home}/map.json&arm=~/arms/six.urdf"):
        with pytest.warns(UserWarning, match="the gripper stays"):
            assert len(read(Spec.parse(f"lerobot:~/d?{options}")).arm) == 6
    with pytest.raises(FileNotFoundError, match=f"{home}/none.urdf does not exist"):
        read(Spec.parse("lerobot:~/d?columns=~/map.json&arm=~/none.urdf"))


def stamped(folder: Path, change) -> None:
    """Change the timestamps of the first data file, which are given as an array."""
    rewritten(folder, DATA, lambda t: t.update(timestamp=change(np.array(t["timestamp"])).tolist()))


def test_timestamps_that_contradict_the_rate(folder):
    stamped(folder, lambda t: 3 * t)
    with pytest.raises(
        BadData, match=r"file-000\.parquet: rows are 0\.2 s apart .*0\.06667 s at 15 Hz.*\?recorded_hz=5,"
    ):
        opened(folder)
    with pytest.raises(BadData, match=r"file-001\.parquet: rows are 0\.06667 s apart"):
        opened(folder, "?recorded_hz=5")
    stamped(folder, lambda t: -t)
    with pytest.raises(BadData, match=r"rows are -0\.2 s apart .*at 15 Hz\. Correct fps in meta/info\.json or the"):
        opened(folder)


def test_the_rate_may_be_given(tmp_path):
    folder = write(tmp_path / "droid_1.0.1", droid_episodes(), 15)
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"fps": 30}))
    assert opened(folder, "?recorded_hz=15").trajectories.lengths.tolist() == [167, 266, 411]


def test_a_gap_makes_an_episode_bad(folder):
    def gap(times):
        times[167 + 9 :] += 5  # in episode 1
        return times

    stamped(folder, gap)
    with pytest.raises(BadData, match=r"episode 1 has a gap: its time step 9 is 5\.067 s after .*\?bad=skip"):
        opened(folder)
    with pytest.warns(UserWarning, match="left out 1 of 3 episodes"):
        assert opened(folder, "?bad=skip").trajectories.names == ("episode_000000", "episode_000002")


@pytest.mark.parametrize("kind", ["jitter", "a few lost rows", "never set", "missing", "of another day"])
def test_timestamps_of_real_recordings(folder, kind):
    lost = np.random.default_rng(0).random(433) < 0.01
    changes = {
        "jitter": lambda t: t + np.random.default_rng(0).uniform(-0.02, 0.02, len(t)),
        "a few lost rows": lambda t: t + np.cumsum(2 * lost / 15),
        "never set": lambda t: 0 * t,
        "missing": lambda t: t,
        "of another day": lambda t: t + 1e4,
    }
    stamped(folder, changes[kind])
    if kind == "missing":
        rewritten(folder, DATA, lambda t: t.pop("timestamp"))
    assert len(opened(folder).trajectories) == 3
