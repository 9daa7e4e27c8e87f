"""Rows, episodes, tasks and videos of a LeRobotDataset are matched by their indices, and read only if needed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("lerobot") is None or find_spec("lerobot.policies") is None:
    pytest.skip("needs the lerobot extra", allow_module_level=True)

import pyarrow as pa
import pyarrow.parquet as pq
from lerobot_fixture import droid, write
from recorded import tiny

from action_heads.adapt.build import build, state_of
from action_heads.data import BadData, BadEpisode, Spec
from action_heads.data.formats import open_recording

LENGTHS = (5, 7, 6)
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


def opened(folder: Path, options: str = ""):
    return open_recording(Spec.parse(f"lerobot:{folder}{options}"))


def dataset(folder: Path, state: str = "observation.state", lengths=LENGTHS, **info) -> Path:
    """Return episodes whose numbers tell their episode and tick."""
    episodes = [
        {
            state: np.stack([np.full(n, i), np.arange(n)], axis=1),
            "action": np.tile([0.1 * i, 0, 0, 1, 0, 0, 0, 1, 0, 1.0], (n, 1))
            * np.where(np.arange(n) % 2, 1, -1)[:, None],
        }
        for i, n in enumerate(lengths)
    ]
    write(folder, episodes, 20)
    record = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))
    record["features"] |= {"task_index": {"dtype": "int64", "shape": [1], "names": None}}
    (folder / "meta/info.json").write_text(json.dumps(record | info), encoding="utf-8")
    return folder


def change(path: Path, how) -> None:
    table = pq.read_table(path).to_pydict()
    how(table)
    pq.write_table(pa.table(table), path)


def shuffled(seed: int):
    def how(table):
        order = np.random.default_rng(seed).permutation(len(next(iter(table.values()))))
        for name, values in table.items():
            table[name] = [values[i] for i in order]

    return how


@pytest.mark.parametrize("seed", range(3))
def test_rows_and_episodes_in_any_order(tmp_path, seed):
    folder = dataset(tmp_path / "d")
    straight = opened(folder).column("observation.state")
    for path in sorted(folder.glob("data/*/*.parquet")):
        change(path, shuffled(seed))
    change(folder / EPISODES, shuffled(seed))
    recording = opened(folder)
    assert recording.lengths.tolist() == list(LENGTHS)
    assert np.array_equal(recording.column("observation.state"), straight)


@pytest.mark.parametrize("index", ["task", "__index_level_0__", None])
def test_tasks_by_their_index(tmp_path, index):
    """Task descriptions are read from an index with or without a name, as pandas writes it."""
    folder = dataset(tmp_path / "d")
    for path, tasks in ((DATA, [40, 7]), ("data/chunk-000/file-001.parquet", [7])):
        change(
            folder / path,
            lambda t, tasks=tasks: t.update(task_index=[tasks[i % 2 * (len(tasks) - 1)] for i in t["episode_index"]]),
        )
    table = {"task_index": [40, 3, 7], index or "text": ["open", "never", "close"]}
    pq.write_table(pa.table(table), folder / "meta/tasks.parquet")
    recording = opened(folder)
    words = [recording.tasks[i] for i in recording.task_of]
    assert words == ["open"] * 5 + ["close"] * 7 + ["close"] * 6
    table["task_index"] = [40, 3, 8]
    pq.write_table(pa.table(table), folder / "meta/tasks.parquet")
    with pytest.raises(BadData, match=r"row 5: task_index 7 is not in meta/tasks.parquet, which has 3, 8, 40"):
        opened(folder)
    table["task_index"] = [40, 7, 7]
    pq.write_table(pa.table(table), folder / "meta/tasks.parquet")
    with pytest.raises(BadData, match="task_index 7 occurs twice"):
        opened(folder)


def test_tasks_are_only_missed_where_they_are_read(tmp_path, folder):
    data = f"lerobot:{dataset(tmp_path / 'd')}"
    config = {"data": data, "encoder": "none", "cameras": (), "state": ()}
    assert build(tiny(folder, **config)).windows.recording.tasks == ("",)
    with pytest.raises(ValueError, match=r"--text: .*no descriptions of its tasks"):
        build(tiny(folder, **config, text="distilbert-base-uncased"))


def test_images_are_those_of_their_rows_wherever_these_stand(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.images.top": {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (1,), "names": None},
        "action": {"dtype": "float32", "shape": (10,), "names": None},
    }
    written = LeRobotDataset.create("local/d", fps=10, features=features, root=tmp_path / "d", use_videos=False)
    for episode in range(2):
        for t in range(6):
            image = np.full((8, 8, 3), 20 * episode + t, np.uint8)
            row = {"observation.state": np.float32([t]), "action": np.zeros(10, np.float32)}
            written.add_frame(row | {"observation.images.top": image, "task": "x"})
        written.save_episode()
    written.finalize()
    path = tmp_path / "d" / DATA
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(12)), path)
    recording = opened(tmp_path / "d")
    for episode in range(2):
        seen = recording.images_of("top", episode, np.arange(6))
        assert seen[:, 0, 0, 0].tolist() == [20 * episode + t for t in range(6)]


def video(folder: Path) -> Path:
    """Return a dataset with a camera whose videos are missing."""
    info = json.loads((dataset(folder) / "meta/info.json").read_text(encoding="utf-8"))
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [64, 64, 3], "names": None}
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (folder / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    places = {f"videos/observation.images.top/{key}": [0, 0, 0] for key in ("chunk_index", "file_index")}
    change(
        folder / EPISODES,
        lambda t: t.update(places | {"videos/observation.images.top/from_timestamp": [0.0, 0.25, 0.6]}),
    )
    return folder


def test_videos_are_only_missed_where_they_are_seen(tmp_path, folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a local folder, fetched"))
    data = f"lerobot:{video(tmp_path / 'd')}"
    built = build(tiny(folder, data=data, encoder="none", cameras=(), state=()))
    assert built.policy.contract.state == ("observation.state",)
    with pytest.raises(
        ValueError, match=r"lacks videos/observation.images.top/chunk-000/file-000.mp4 \(1 videos\).*--encoder none"
    ):
        build(tiny(folder, data=data, cameras=("top",), state=()))


def test_the_tolerance_of_videos_is_lerobot_s(tmp_path, monkeypatch):
    import torch
    from lerobot.datasets import video_utils

    asked = []

    def decode(path, times, tolerance, **_):
        asked.append(tolerance)
        if tolerance < 0.002:
            raise video_utils.FrameTimestampError("2 ms off")
        return torch.zeros(len(times), 3, 64, 64, dtype=torch.uint8)

    monkeypatch.setattr(video_utils, "decode_video_frames", decode)
    folder = video(tmp_path / "d")
    assert opened(folder).images_of("top", 0, np.array([0, 1])).shape == (2, 64, 64, 3)
    assert opened(folder, "?tolerance_s=0.004").images_of("top", 1, np.array([0])).shape == (1, 64, 64, 3)
    assert asked == [0.25 / 20, 0.004]
    with pytest.raises(BadData, match=r"episode_000000.*2 ms off.*\?tolerance_s="):
        opened(folder, "?tolerance_s=0.001").images_of("top", 0, np.array([0]))


@pytest.mark.parametrize("version", ["v2.1", "v2.0", "v1.6", "v4.0", None, 3])
@pytest.mark.parametrize("stage", [1, 2])
def test_other_versions_are_named_with_what_converts_them(tmp_path, version, stage):
    from action_heads.data import open_windows

    folder = droid(tmp_path / "d", codebase_version=version)
    spec = Spec.parse(f"lerobot:{folder}")
    with pytest.raises(BadData, match="is a LeRobotDataset of version") as caught:
        open_recording(spec) if stage == 2 else open_windows(spec, 16)
    text = str(caught.value)
    if version == "v4.0":
        assert "newer action-heads" in text
    else:
        assert f"lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=OWNER/NAME --root={folder}" in text
        assert find_spec("lerobot.scripts.convert_dataset_v21_to_v30") is not None
        assert ("older lerobot" in text) == (version in ("v2.0", "v1.6"))


def test_only_lerobot_s_own_columns_are_hidden(tmp_path):
    names = ("observation.index_finger", "reindexed", "timestamp_of_camera", "observation.task_index")
    episode = {name: np.zeros((4, 2)) for name in names} | {"action": np.zeros((4, 10))}
    recording = opened(write(tmp_path / "d", [episode], 20))
    assert set(recording.widths) == {*names, "action"}


@pytest.mark.parametrize("state", ["observation.state", "state"])
def test_the_state_is_found_by_either_name(tmp_path, state):
    assert opened(dataset(tmp_path / "d", state)).default_state(with_images=True) == (state,)


def test_a_policy_without_state_says_so(tmp_path, folder):
    data = f"lerobot:{dataset(tmp_path / 'd', 'observation.joints')}"
    recording = opened(tmp_path / "d")
    assert recording.default_state(with_images=True) == ()
    with pytest.warns(UserWarning, match=r"reads no state, .*It has observation.joints \(2\), action.*--state none"):
        assert state_of(tiny(folder, data=data, state=()), recording) == ()


def test_numbers_that_are_none_are_named_by_column_and_episode(tmp_path, folder):
    data = dataset(tmp_path / "d", state="observation.state")
    info = json.loads((data / "meta/info.json").read_text(encoding="utf-8"))
    info["features"]["observation.state"]["names"] = ["x", "y"]
    (data / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    change(data / DATA, lambda t: t["observation.state"][7].__setitem__(1, float("nan")))
    config = tiny(folder, data=f"lerobot:{data}", encoder="none", cameras=(), state=("observation.state[1]",))
    with pytest.raises(
        ValueError,
        match=r"--state: 1 of 18 rows.*row 7 \(episode_000001, time step 2\) in observation.state\[1\] \(y\)",
    ):
        build(config)


def test_episodes_without_steps(tmp_path):
    folder = dataset(tmp_path / "d", lengths=(5, 0, 6))
    with pytest.raises(BadEpisode, match=r"episode 1 has no time steps .*\?short=skip"):
        opened(folder)
    for options in ("?short=skip", "?bad=skip"):
        recording = opened(folder, options)
        assert recording.names == ("episode_000000", "episode_000002")
        assert recording.column("observation.state")[5:, 0].tolist() == [2.0] * 6


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("fps", None, "fps must be a number above 0"),
        ("fps", 0, "fps must be a number above 0"),
        ("fps", True, "fps must be a number above 0"),
        ("fps", float("nan"), "fps must be a number above 0"),
        ("features", [], "features must be an object"),
        ("data_path", "../{chunk_index}", "data_path must be a path within the dataset"),
        ("data_path", "{chunk_index:999999999d}", "data_path must be a path within the dataset"),
        ("data_path", "{chunk_index.__class__}", "data_path must be a path within the dataset"),
        ("total_frames", 17, "counts 17 frames, but meta/episodes has 18"),
        ("total_episodes", "3", "total_episodes must be an integer"),
    ],
)
def test_info_of_another_kind(tmp_path, where, value, message):
    with pytest.raises(BadData, match=rf"d: meta/info.json.*{message}|{message}"):
        opened(dataset(tmp_path / "d", **{where: value}))


def test_an_episode_with_a_gap_is_left_out_if_asked(tmp_path):
    """Stage 2 leaves out the rows, names and tasks of such an episode, as Stage 1 does."""
    folder = dataset(tmp_path / "d")
    change(folder / DATA, lambda t: t.update(timestamp=[5.0 * (i > 8) + s for i, s in enumerate(t["timestamp"])]))
    with pytest.raises(BadEpisode, match=r"episode 1 has a gap: its time step 4 is .* 1 of 3 episodes are bad"):
        opened(folder)
    with pytest.warns(UserWarning, match="left out 1 of 3 episodes"):
        recording = opened(folder, "?bad=skip")
    assert recording.names == ("episode_000000", "episode_000002")
    assert len(recording.task_of) == 11
    assert recording.column("observation.state")[:, 0].tolist() == [0] * 5 + [2] * 6
    with pytest.warns(UserWarning, match="left out 1 of 3 episodes"):
        assert opened(folder, "?bad=skip&recorded_hz=19").rate_hz == 19
