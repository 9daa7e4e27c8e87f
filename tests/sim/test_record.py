import sys

import numpy as np
import pytest
from action_heads_lab.sim import Demonstrations, record
from action_heads_lab.sim.demonstrations import VERSION
from action_heads_lab.sim.frames import rotation_to_6d
from action_heads_lab.sim.record import SEEDS, Episode, _record_episodes, disturb, run_expert
from forked import inside

from action_heads.io.locks import InUse, held_beside

pytestmark = pytest.mark.sim


@pytest.fixture
def hand_made():
    """Return two episodes of 3 and 2 ticks, with observations 0, 1, ... and actions 100, 101, ..."""
    count = np.arange(5, dtype=np.float32)[:, None]
    return Demonstrations(
        observation=np.repeat(count, 4, axis=1),
        action=np.repeat(100 + count, 10, axis=1),
        joint_position=np.repeat(count, 7, axis=1),
        episode_length=np.array([3, 2]),
        seed=np.array([10_000, 10_002]),
        task="Lift",
        noise=0.25,
    )


def test_chunks_stay_within_their_episode(hand_made):
    cond, actions, is_pad = hand_made.chunks(horizon=3, observation_steps=2)
    assert cond.shape == (5, 8)
    assert cond.dtype == actions.dtype == np.float32
    assert cond[:, [0, 4]].tolist() == [[0, 0], [0, 1], [1, 2], [3, 3], [3, 4]]
    assert (actions[:, :, 0] - 100).tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4]]
    assert is_pad.astype(int).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 1, 1]]


def test_save_load_round_trip(hand_made, tmp_path):
    hand_made.save(tmp_path / "new" / "demos.npz")
    loaded = Demonstrations.load(tmp_path / "new" / "demos.npz")
    for name, value in vars(hand_made).items():
        assert np.array_equal(getattr(loaded, name), value), name
        assert type(getattr(loaded, name)) is type(value), name
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["demos.npz"], "a partial file was left behind"


def test_load_rejects_other_files(hand_made, tmp_path):
    np.savez(tmp_path / "other.npz", action=np.zeros(3))
    with pytest.raises(ValueError, match="lacks episode_length"):
        Demonstrations.load(tmp_path / "other.npz")
    np.savez(tmp_path / "later.npz", version=VERSION + 1, **vars(hand_made))
    with pytest.raises(ValueError, match="Record it again"):
        Demonstrations.load(tmp_path / "later.npz")


def test_arrays_must_fit_the_episodes(hand_made):
    with pytest.raises(ValueError, match=r"action has shape \(4, 10\).*should be 5"):
        Demonstrations(**vars(hand_made) | {"action": hand_made.action[:4]})


def test_expert_lifts(lift_episode):
    assert lift_episode.success
    assert len(lift_episode.action) < 80


def test_replay_of_recorded_targets_succeeds(lift, lift_episode):
    """Replayed recorded actions, stored as float32, solve the task as the expert did."""
    lift.reset(lift_episode.seed)
    assert any([lift.step(action) is not None and lift.success() for action in lift_episode.action])


def test_noise_moves_the_arm_but_not_the_labels(lift, lift_episode):
    noisy = run_expert(lift, lift_episode.seed, noise=0.5)
    assert not np.array_equal(noisy.observation[1:20], lift_episode.observation[1:20])
    ahead = np.abs(noisy.action[:, :3] - noisy.observation[:, :3]).max()
    assert ahead <= 0.05 + 1e-5, "an action is at most the largest step of the expert away"
    again = run_expert(lift, lift_episode.seed, noise=0.5)
    assert np.array_equal(noisy.action, again.action)


def test_no_disturbance_is_no_change(lift):
    lift.reset(seed=0)
    action = np.concatenate([lift.tcp.p - 0.03, rotation_to_6d(lift.tcp.R), [1.0]])
    np.testing.assert_allclose(disturb(action, lift.tcp, np.zeros(6)), action, atol=1e-9)


def test_record_reuses_its_file(tmp_path, monkeypatch):
    path = tmp_path / "lift.npz"
    demonstrations = record("Lift", episodes=2, path=path, workers=1)
    assert len(demonstrations) == 2
    assert demonstrations.noise == 0.3
    assert (np.diff(demonstrations.seed) > 0).all()
    assert demonstrations.seed[0] >= SEEDS, "recordings and rollouts share no seed"

    # From here on nothing can be recorded. sys.modules is used since `record` of the package is the function.
    monkeypatch.setattr(sys.modules["action_heads_lab.sim.record"], "_record_episodes", None)
    assert np.array_equal(record("Lift", episodes=2, path=path).action, demonstrations.action)
    with pytest.raises(ValueError, match="holds another recording"):
        record("Lift", episodes=3, path=path)
    with pytest.raises(ValueError, match="episodes >= 1"):
        record("Lift", episodes=0)


def test_two_at_once_are_one_and_a_refusal(tmp_path, monkeypatch, hand_made):
    path, calls = tmp_path / "lift.npz", []
    monkeypatch.setattr(
        sys.modules["action_heads_lab.sim.record"], "_record_episodes", lambda *given: calls.append(given)
    )
    monkeypatch.setattr(sys.modules["action_heads_lab.sim.record"], "together", lambda *_: hand_made)
    with inside(lambda: held_beside(path)), pytest.raises(InUse, match=r"lift.npz is in use .*give another path"):
        record("Lift", episodes=2, path=path)
    assert not calls
    record("Lift", episodes=2, noise=0.25, path=path)
    assert [path.name for path in tmp_path.iterdir()] == ["lift.npz"]


class FakeWorkers:
    """Workers that answer in random order, and fail for every third seed."""

    def __init__(self, n, *_):
        self.jobs, self.dice = [None] * n, np.random.default_rng(n)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __len__(self):
        return len(self.jobs)

    def send(self, worker, seed):
        self.jobs[worker] = seed

    def ready(self):
        return [int(self.dice.integers(len(self.jobs)))]

    def receive(self, worker):
        seed, empty = self.jobs[worker], np.zeros((0, 1))
        return Episode(seed, self.succeeds(seed), empty, empty, empty)

    def succeeds(self, seed):
        return seed % 3 != 0


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_number_of_workers_does_not_change_the_recording(workers, monkeypatch):
    monkeypatch.setattr(sys.modules["action_heads_lab.sim.record"], "Workers", FakeWorkers)
    kept = _record_episodes("Lift", episodes=20, seed=2, noise=0.0, workers=workers)
    assert [episode.seed for episode in kept] == [seed for seed in range(30_000, 30_050) if seed % 3][:20]


def test_an_expert_that_never_succeeds_is_an_error(monkeypatch):
    monkeypatch.setattr(sys.modules["action_heads_lab.sim.record"], "Workers", FakeWorkers)
    monkeypatch.setattr(FakeWorkers, "succeeds", lambda self, seed: False)
    with pytest.raises(RuntimeError, match=r"succeeded in 0 of 4\d tries. Lower the noise"):
        _record_episodes("Lift", episodes=2, seed=0, noise=0.9, workers=2)
