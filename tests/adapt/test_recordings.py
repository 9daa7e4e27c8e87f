"""Windows stay in their episode and images belong to their rows, for every format of recordings."""

from __future__ import annotations

import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from recorded import LENGTH, SIZE, episode, hdf5, tiny

from action_heads.adapt.build import build
from action_heads.data import Spec
from action_heads.data.formats import open_recording
from action_heads.data.windows import ObservedWindows, Steps, batches, held_out

needs_lerobot = pytest.mark.skipif(
    find_spec("lerobot") is None or find_spec("lerobot.policies") is None, reason="needs the lerobot extra"
)


def opened(path, kind="robomimic"):
    return open_recording(Spec.parse(f"{kind}:{path}"))


def windows(recording, cameras=("agentview",), horizon=5, steps=3) -> ObservedWindows:
    actions = torch.from_numpy(recording.column(recording.default_action))
    state = torch.from_numpy(recording.numbers([name for name in recording.widths if "position" in name]))
    episodes = np.ones(len(recording.lengths), dtype=bool)
    return ObservedWindows(recording, actions, state, cameras, episodes, horizon, steps)


def test_hdf5_is_what_was_written(tmp_path):
    recording = opened(hdf5(tmp_path / "demos.hdf5", 3))
    assert recording.lengths.tolist() == [LENGTH, LENGTH + 1, LENGTH + 2]
    assert recording.cameras == {"agentview": (SIZE, SIZE), "wrist": (SIZE, SIZE)}
    assert recording.widths == {"position": 3, "fingers": 1, "actions": 10}
    assert np.array_equal(recording.numbers(["position[0:2]", "fingers"])[:, 2], recording.column("fingers")[:, 0])
    steps = np.array([0, 0, 4])
    assert np.array_equal(recording.images_of("wrist", 2, steps), episode(2)["wrist_rgb"][steps])
    assert pickle.loads(pickle.dumps(recording)).images_of("agentview", 0, steps).shape == (3, SIZE, SIZE, 3)


def test_windows_stay_within_their_episode(tmp_path):
    recording = opened(hdf5(tmp_path / "demos.hdf5", 2))
    all_of_them = windows(recording)
    assert len(all_of_them) == 2 * LENGTH + 1
    first, last = episode(0), episode(1)
    start = all_of_them[0]
    assert np.array_equal(start["actions"], first["actions"][:5])
    assert not start["is_pad"].any()
    assert np.array_equal(start["state"], first["position"][[0, 0, 0]])
    end = all_of_them[LENGTH - 2]
    assert np.array_equal(end["actions"], first["actions"][[-2, -1, -1, -1, -1]])
    assert end["is_pad"].tolist() == [False, False, True, True, True]
    across = all_of_them[LENGTH + 1]["images"]["agentview"]
    assert across.dtype == torch.uint8
    assert np.array_equal(across.permute(0, 2, 3, 1), last["agentview_image"][[0, 0, 1]])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_has_the_same_rows_whoever_reads_them(tmp_path, workers):
    of = windows(opened(hdf5(tmp_path / "demos.hdf5")))
    whole = list(batches(of, Steps(of, 4, 0, 0, range(5)), workers))
    later = list(batches(of, Steps(of, 4, 0, 0, range(3, 5)), 0))
    other = list(batches(of, Steps(of, 4, 0, 1, range(3, 5)), 0))
    assert len(whole) == 5
    for batch, again in zip(whole[3:], later, strict=True):
        assert torch.equal(batch["actions"], again["actions"])
        assert torch.equal(batch["images"]["agentview"], again["images"]["agentview"])
    assert not torch.equal(later[0]["actions"], other[0]["actions"]), "another process draws other windows"


def test_held_out_episodes_are_not_trained_on(folder):
    built = build(tiny(folder, encoder="none", cameras=(), held_out=0.34))
    assert built.held_out is not None
    assert not set(built.windows.rows) & set(built.held_out.rows)
    assert len(built.windows) + len(built.held_out) == len(built.windows.actions)
    assert held_out(built.windows.recording, 0.05, 0).sum() == 0, "a twentieth of six episodes is none"
    assert held_out(built.windows.recording, 0.34, 0).tolist() != held_out(built.windows.recording, 0.34, 4).tolist()


@needs_lerobot
@pytest.mark.parametrize("videos", [False, True])
def test_lerobot_is_what_lerobot_reads(tmp_path, videos):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    size = 64 if videos else SIZE  # codecs need larger images
    kind = "video" if videos else "image"
    features = {
        "observation.images.top": {"dtype": kind, "shape": (size, size, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": {"axes": ["x", "y", "z"]}},
        "observation.position": {"dtype": "float32", "shape": (3,), "names": None},
        "action": {"dtype": "float32", "shape": (10,), "names": None},
    }
    written = LeRobotDataset.create("local/d", fps=10, features=features, root=tmp_path / "d", use_videos=videos)
    for index in range(2):
        made = episode(index)
        for t in range(len(made["actions"])):
            image = np.kron(made["agentview_image"][t], np.ones((size // SIZE, size // SIZE, 1), np.uint8))
            position = made["position"][t]
            row = {"observation.state": position, "observation.position": position, "action": made["actions"][t]}
            written.add_frame(row | {"observation.images.top": image, "task": f"go {index}"})
        written.save_episode()
    written.finalize()
    recording = opened(tmp_path / "d", "lerobot")
    theirs = LeRobotDataset("local/d", root=tmp_path / "d")
    assert recording.cameras == {"top": (size, size)}
    assert recording.tasks == ("go 0", "go 1")
    assert recording.default_state(with_images=True) == ("observation.state",)
    assert recording.column_names("observation.state") == ["x", "y", "z"]
    assert np.array_equal(recording.column("action"), np.concatenate([episode(i)["actions"] for i in range(2)]))
    row = LENGTH + 2
    sample = windows(recording, ("top",))[row]
    assert recording.tasks[sample["task"]] == theirs[row]["task"]
    expected = torch.stack([theirs[i]["observation.images.top"] for i in range(row - 2, row + 1)])
    assert torch.allclose(sample["images"]["top"] / 255, expected, atol=0.5 / 255)


@needs_lerobot
def test_a_dataset_that_the_hub_does_not_give_is_named_with_what_helps(monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    def unreachable(*_, **__):
        raise errors.LocalEntryNotFoundError("not cached") from errors.HTTPError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(OSError, match=r"lerobot:someone/lift: there is no folder someone/lift here.*name a folder"):
        opened("someone/lift", kind="lerobot")
