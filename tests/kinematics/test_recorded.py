"""Recorded motion consists of true windows of single episodes, and its splits share no time step.

Axes: `N` time steps of the recording, `h` horizon, 7 joints.
"""

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from action_heads.kinematics.panda import PANDA, forward
from action_heads.kinematics.recorded import recorded_chunks, recorded_trajectories
from action_heads.kinematics.trajectories import Windows, held_out_hash

SOURCES = {"droid_setup_ctrlworld": 45, "haptic_skin": 51, "lila": 225}
DROID = Path(__file__).parents[1] / "data" / "droid_3_episodes.npz"


def table() -> dict[str, np.ndarray]:
    """Return the arrays of the bundled file."""
    with (resources.files("action_heads.kinematics") / "data/panda_kinematics_15hz.npz").open("rb") as file:
        return dict(np.load(file, allow_pickle=False))


def starts(chunks: Windows) -> torch.Tensor:
    return chunks.starts(torch.arange(len(chunks)))


def steps_of(chunks: Windows) -> set[int]:
    """Return every time step of the recording that a split contains."""
    return set((starts(chunks)[:, None] + torch.arange(chunks.steps)).flatten().tolist())


def test_the_joints_are_the_recorded_ones_bit_for_bit() -> None:
    joints = recorded_trajectories().joints
    assert joints.shape == (120418, 7)
    # Of joint_position, float32 (N, 7), in the original collection.
    digest = hashlib.sha256(joints.numpy().tobytes()).hexdigest()
    assert digest == "44a5c6964bd463d7f4f3a212d48f9f2539d02bfd689c3c8fac68b43706fc3456"
    assert PANDA.within_limits(joints).all()


def test_no_episode_and_no_step_in_both_splits() -> None:
    train, held_out, everything = (recorded_chunks(split) for split in ("train", "held_out", "all"))
    assert not set(train.episodes) & set(held_out.episodes)
    assert len(train.episodes) + len(held_out.episodes) == len(everything.episodes) == 321
    assert not steps_of(train) & steps_of(held_out)
    assert len(train) + len(held_out) == len(everything) == 115603
    assert 0.03 < len(held_out) / len(everything) < 0.08


@pytest.mark.parametrize(("source", "count"), SOURCES.items())
def test_every_source_is_held_out_alike(source: str, count: int) -> None:
    train, held_out = (recorded_chunks(split, sources=(source,)) for split in ("train", "held_out"))
    assert 1 <= len(held_out.episodes) <= 0.1 * count
    assert len(train.episodes) == count - len(held_out.episodes)
    assert {name.split("/")[0] for name in held_out.episodes} == {source}


def test_the_split_never_moves() -> None:
    names = "\n".join(sorted(recorded_chunks("held_out").episodes))
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "ffdfd499d86ed2b4"
    assert held_out_hash(recorded_trajectories()) == "ffdfd499d86ed2b4"
    assert recorded_chunks("held_out", horizon=4).episodes == recorded_chunks("held_out", horizon=64).episodes


def test_no_window_crosses_an_episode() -> None:
    data, chunks = table(), recorded_chunks("all")
    episode = np.repeat(np.arange(321), data["episode_length"])
    first, last = episode[starts(chunks)], episode[starts(chunks) + 15]
    assert (first == last).all()
    assert len(chunks) == (data["episode_length"] - 15).sum()
    assert len(starts(chunks).unique()) == len(chunks)


def test_windows_are_gathered() -> None:
    chunks, table = recorded_chunks(horizon=8), recorded_trajectories()
    motion = chunks[torch.tensor([0, 5, len(chunks) - 1])]
    assert (motion.poses.shape, motion.joints.shape) == ((3, 8, 10), (3, 8, 7))
    start = int(starts(chunks)[5])
    assert torch.equal(motion.joints[1], table.joints[start : start + 8])
    assert torch.equal(motion.poses[1, :, 9], table.gripper[start : start + 8])
    torch.testing.assert_close(motion.poses[1, :, :3], forward(motion.joints[1])[0])


def test_sampling_follows_the_generator() -> None:
    chunks = recorded_chunks()
    first, again, other = (chunks(32, torch.Generator().manual_seed(seed)).joints for seed in (1, 1, 2))
    assert first.shape == (32, 16, 7)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gripper_is_cut_at_a_half_and_nan_is_open() -> None:
    raw, gripper = torch.from_numpy(table()["gripper"]), recorded_trajectories().gripper
    assert set(gripper.unique().tolist()) == {-1.0, 1.0}
    assert raw.isnan().sum() == 27143
    assert (gripper[raw.isnan()] == -1).all()
    assert (gripper[raw > 0.5] == 1).all()
    assert (gripper[raw <= 0.5] == -1).all()


def test_true_droid_is_not_in_the_training_data() -> None:
    droid = torch.from_numpy(np.load(DROID, allow_pickle=False)["joint_position"])
    nearest = torch.cdist(droid[::20], recorded_trajectories().joints).min()
    assert nearest > 1e-2


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match=r"'test'.*'train', 'held_out', 'all'"):
        recorded_chunks("test")
    with pytest.raises(ValueError, match=r"unknown source robocat.*lila"):
        recorded_chunks(sources=("robocat",))
    with pytest.raises(ValueError, match=r"5000 steps; the longest of all 321 has 1701"):
        recorded_chunks("all", horizon=5000)
    with pytest.raises(ValueError, match="0 steps"):
        recorded_chunks(horizon=0)
