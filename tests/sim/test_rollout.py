import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from action_heads_lab.sim import TASKS, rollout
from action_heads_lab.sim.rollout import _ask
from action_heads_lab.sim.rollout_worker import Play
from action_heads_lab.sim.video import write_grid
from action_heads_lab.sim.workers import Workers

pytestmark = pytest.mark.sim


def stand_still(cond):
    """Return the pose of the newest observation, with an open hand."""
    newest = cond[:, cond.shape[1] // 2 :]
    action = np.concatenate([newest[:, :9], -np.ones((len(newest), 1))], axis=1)
    return np.repeat(action[:, None], 16, axis=1)


class Replay:
    """A policy that replays recorded actions in chunks of 8 to the episode with the start of the recording."""

    def __init__(self, episode):
        self.episode, self.calls = episode, 0

    def __call__(self, cond):
        actions = stand_still(cond)
        start = 8 * self.calls
        chunk = self.episode.action[start : start + 16]
        self.calls += 1
        if len(chunk):
            actions[-1] = np.concatenate([chunk, np.repeat(chunk[-1:], 16 - len(chunk), axis=0)])
        else:
            actions[-1] = self.episode.action[-1]
        return actions


class InProcess(Workers):
    """A pool like `Workers` that runs in this process."""

    def __enter__(self):
        self.built = [self._build(*self._arguments) for _ in range(self._n)]
        self.replies = [None] * self._n
        return self

    def __exit__(self, *_):
        pass

    def send(self, worker, message):
        self.replies[worker] = self.built[worker](message)

    def receive(self, worker):
        return self.replies[worker]


def in_process(monkeypatch):
    monkeypatch.setattr(sys.modules[rollout.__module__], "Workers", InProcess)


def test_rollouts_of_a_good_and_an_idle_policy(lift_episode, tmp_path, monkeypatch):
    """Two idle episodes fail at the limit and the replay succeeds, in the order of the seeds."""
    in_process(monkeypatch)
    limit = 56  # enough for the replay
    monkeypatch.setitem(TASKS, "Lift", replace(TASKS["Lift"], rollout_steps=limit))
    batches = []
    replay = Replay(lift_episode)

    def policy(cond):
        batches.append(len(cond))
        # The last slot holds the replay until it succeeds. Then only idle episodes remain.
        return replay(cond) if len(cond) == 3 else stand_still(cond)

    video = tmp_path / "lift.mp4"
    outcome = rollout("Lift", policy, seeds=[1, 2, lift_episode.seed], workers=2, video=video, film=1, progress=False)
    assert outcome.success.tolist() == [False, False, True]
    assert outcome.seed.tolist() == [1, 2, lift_episode.seed]
    assert outcome.length[:2].tolist() == [limit, limit]
    assert outcome.length[2] <= len(lift_episode.action)
    assert batches[0] == 3
    assert len(batches) == limit // 8
    assert str(outcome).startswith("Lift: 1 of 3 (95 % interval 6% to 79%)")
    assert video.stat().st_size > 5_000


def test_processes_of_simulation_change_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "Lift", replace(TASKS["Lift"], rollout_steps=16))

    def seen(video) -> np.ndarray:
        conds = []

        def reach(cond):
            conds.append(cond)
            action = stand_still(cond)
            action[:, :, :3] = cond[:, None, -12:-9]  # the cube's position
            return action

        rollout("Lift", reach, seeds=[1, 2, 3], batch=2, workers=2, video=video, film=1, progress=False)
        return np.concatenate(conds)

    apart = seen(tmp_path / "lift.mp4")
    assert (tmp_path / "lift.mp4").stat().st_size > 1_000
    in_process(monkeypatch)
    assert np.array_equal(apart, seen(None))


def test_conditioning_is_the_previous_and_the_newest_observation(lift):
    play = Play(lift, limit=10)
    start = play.start(seed=3)
    previous, newest = start.cond["state"]
    assert newest.shape == (TASKS["Lift"].observation_size,)
    assert np.array_equal(previous, newest), "the first observation is repeated, as in chunks()"
    report = play.act(stand_still(start.cond["state"].reshape(1, -1))[0, :3])
    assert (report.length, report.done) == (3, False)
    previous, newest = report.cond["state"]
    assert np.array_equal(newest, lift.observe())
    assert not np.array_equal(previous, newest)
    assert play.act(stand_still(report.cond["state"].reshape(1, -1))[0]).done, "the limit cuts a chunk short"
    assert play.length == 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 4, 10)), "at least execute=8"),
        (np.zeros((2, 16, 7)), r"\(2, at least execute=8, 10\)"),
        (np.zeros((1, 16, 10)), r"returned actions of shape \(1, 16, 10\)"),
        (np.full((2, 16, 10), np.nan), "NaN or infinity in 2 of 2"),
    ],
)
def test_bad_answers_of_a_policy(answer, message):
    with pytest.raises(ValueError, match=message):
        _ask(lambda seen: answer, {"state": np.zeros((2, 2, 23), np.float32)}, execute=8)


def test_bad_arguments():
    with pytest.raises(ValueError, match="0 seeds"):
        rollout("Lift", stand_still, seeds=[])
    with pytest.raises(ValueError, match="unknown task"):
        rollout("Juggle", stand_still)
    with pytest.raises(ValueError, match=r"the video a\.mp4 needs film >= 1, got film=0"):
        rollout("Lift", stand_still, video="a.mp4", film=0)


class Fragile:
    """A worker that fails on 0 and dies on 1."""

    def __call__(self, message):
        if message == 1:
            os._exit(7)
        return 1 / message


def test_a_worker_that_fails_or_dies_is_an_error_and_not_a_hang():
    with Workers(2, Fragile) as pool:
        pool.send(0, 0)
        pool.send(1, 1)
        with pytest.raises(RuntimeError, match=r"worker 0 failed:\n(.|\n)*ZeroDivisionError"):
            pool.receive(0)
        with pytest.raises(RuntimeError, match=r"worker 1 died.*exit code 7"):
            pool.receive(1)


def test_grid_shows_outcomes(tmp_path):
    import imageio.v2 as imageio

    clips = [(np.full((n, 64, 64, 3), 128, np.uint8), n == 4) for n in (4, 9, 6)]
    write_grid(tmp_path / "grid.mp4", clips, fps=20)
    frames = imageio.mimread(tmp_path / "grid.mp4")
    assert len(frames) == 9 + 10
    assert frames[0].shape == (128, 128, 3)
    assert np.argmax(frames[-1][2, 32]) == 1, "green: success"
    assert np.argmax(frames[-1][2, 96]) == 0, "red: failure"
