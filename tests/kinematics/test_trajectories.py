"""Windows of an episode table stay in one episode, and splits share no episode.

Axes: `E` episodes, `N` time steps.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from action_heads.kinematics import PANDA, Trajectories, Windows
from action_heads.kinematics.trajectories import HELD_OUT, chosen, held_out, held_out_hash


def table(lengths: list[int], corpora: list[str] | None = None, **changes) -> Trajectories:
    """Return a table whose poses tell their place: x is the time step, and y the episode."""
    lengths_ = np.array(lengths)
    ends = lengths_.cumsum()
    poses = torch.zeros(int(ends[-1]), 9)
    poses[:, 0] = torch.arange(len(poses))
    poses[:, 1] = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths_)).float()
    given = {
        "joints": None,
        "poses": poses,
        "gripper": torch.ones(len(poses)),
        "starts": ends - lengths_,
        "lengths": lengths_,
        "names": tuple(f"e{i}" for i in range(len(lengths))),
        "corpora": tuple(corpora or ["c"] * len(lengths)),
        "rate_hz": 15.0,
    }
    return Trajectories(**{**given, **changes})


@pytest.mark.parametrize("seed", range(20))
def test_splits_share_no_step_and_no_window_crosses_an_episode(seed):
    """Splits are disjoint for any lengths, corpora and window, and no window crosses an episode."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, random.integers(8, 80)).tolist()
    lengths[:8] = [40] * 8
    corpora = random.choice(["a", "b", "c"], len(lengths)).tolist()
    recordings, steps = table(lengths, corpora), int(random.integers(1, 30))
    seen, windows = {}, {}
    for split in ("train", "held_out", "all"):
        episodes = chosen(recordings, split, steps)
        try:
            windows[split] = Windows(recordings, steps, episodes)
        except ValueError:
            seen[split] = set()
            continue
        motion = windows[split][torch.arange(len(windows[split]))].poses
        assert (motion[:, 1:, 0] - motion[:, :-1, 0] == 1).all()
        assert (motion[..., 1] == motion[:, :1, 1]).all()
        assert len(motion[:, 0, 0].unique()) == len(motion)
        seen[split] = set(motion[..., 1].flatten().tolist())
    assert not seen["train"] & seen["held_out"]
    assert seen["train"] | seen["held_out"] == seen["all"]
    assert len(windows["all"]) == sum(max(0, length - steps + 1) for length in lengths)


def test_an_episode_s_split_depends_on_names_alone():
    lengths, corpora = [20] * 60, ["a", "b", "c"] * 20
    recordings = table(lengths, corpora)
    order = np.random.default_rng(0).permutation(60)
    shuffled = table(lengths, [corpora[i] for i in order], names=tuple(recordings.names[i] for i in order))
    held_out = {recordings.names[i] for i in np.flatnonzero(chosen(recordings, "held_out"))}
    assert held_out == {shuffled.names[i] for i in np.flatnonzero(chosen(shuffled, "held_out"))}


@pytest.mark.parametrize("seed", range(50))
def test_a_corpus_that_grows_moves_no_episode_but_the_stand_in(seed):
    random = np.random.default_rng(seed)
    names = [f"{seed}-{i}" for i in range(random.integers(2, 400))]
    random.shuffle(names)
    before = int(random.integers(1, len(names)))
    few = dict(zip(names, held_out(["c"] * before, names[:before]).tolist(), strict=False))
    all_ = dict(zip(names, held_out(["c"] * len(names), names).tolist(), strict=True))
    moved = [name for name in few if few[name] != all_[name]]
    assert all(few[name] for name in moved)  # never out of training
    assert len(moved) <= 1
    if moved:  # only where it stood in for a twentieth that was empty
        assert sum(few.values()) == 1
    assert any(few.values())
    assert any(all_.values())


def test_about_a_twentieth_is_held_out():
    share = held_out(["c"] * 20_000, [f"e{i}" for i in range(20_000)]).mean()
    assert abs(share - HELD_OUT) < 0.005


def test_short_episodes_are_in_no_split_and_do_not_stand_in():
    """An episode that is too short is in no split, and its corpus holds out another one."""
    recordings = table([20] * 12)
    first = chosen(recordings, "held_out")
    assert first.sum() == 1
    lengths = [5 if out else 20 for out in first]
    shorter = table(lengths)
    held, train, every = (chosen(shorter, split, 16) for split in ("held_out", "train", "all"))
    assert held.sum() == 1
    assert not (held & first).any()
    assert (held ^ train == every).all()
    assert (every == ~first).all()
    assert len(Windows(shorter, 16).episodes) == 11
    assert held_out_hash(shorter) == held_out_hash(recordings) != held_out_hash(shorter, 16)


def test_the_same_generator_state_gives_the_same_windows():
    windows = Windows(table([50, 60]), 16)
    first, again, other = (windows(9, torch.Generator().manual_seed(seed)).poses for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_errors_teach():
    with pytest.raises(ValueError, match="poses, or the joints of a known arm"):
        table([20], poses=None)
    with pytest.raises(ValueError, match="poses, or the joints of a known arm"):
        table([20], poses=None, arm=PANDA)
    with pytest.raises(ValueError, match="'e0' of c comes twice"):
        table([20, 20], names=("e0", "e0"))
    with pytest.raises(ValueError, match="0 steps"):
        Windows(table([20]), 0)
    with pytest.raises(ValueError, match="21 steps; the longest of all 1 has 20"):
        Windows(table([20]), 21)
