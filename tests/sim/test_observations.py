"""Observations of a policy with cameras, and motion of the hand by deltas."""

import numpy as np
import pytest
from action_heads_lab.sim import make
from action_heads_lab.sim.conventions import moved
from action_heads_lab.sim.dataset import delta
from action_heads_lab.sim.frames import rotation_from_6d, rotation_to_6d, turn_z
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.rollout import _ask
from action_heads_lab.sim.rollout_worker import Play, stack

pytestmark = pytest.mark.sim
STEP = np.array([0.03, -0.02, 0.01])  # m


def stay(sim, steps: int) -> np.ndarray:
    """Return targets (steps, 10) near the pose of the hand, with an open hand."""
    tcp = sim.tcp
    return np.tile(np.concatenate([tcp.p + np.array([0.02, 0, 0]), rotation_to_6d(tcp.R), [-1.0]]), (steps, 1))


def test_the_last_observations_of_the_columns_asked_for(lift):
    play = Play(lift, 30, Sight(("observation.gripper", "observation.eef"), steps=3))
    start = play.start(seed=3).cond
    assert start["state"].shape == (3, 11)
    assert (start["state"] == start["state"][0]).all(), "the first observation is repeated"
    first = lift.observe()
    report = play.act(stay(lift, 2))
    assert np.array_equal(report.cond["state"][0], np.concatenate([first[9:11], first[:9]]))
    assert np.array_equal(report.cond["state"][2, 2:], lift.observe()[:9])
    report = play.act(stay(lift, 8))
    assert len(np.unique(report.cond["state"][:, 2])) == 3, "the last three of a chunk"


def test_a_delta_leads_where_its_target_was(lift):
    lift.reset(seed=4)
    target = np.concatenate([lift.tcp.p + STEP, rotation_to_6d(turn_z(0.2) @ lift.tcp.R), [1.0]])
    step = delta(target, lift.observe())
    as_head = np.concatenate([step[:3], rotation_to_6d(turn_z(0.2)), step[6:]])
    np.testing.assert_allclose(moved(lift.tcp, as_head), target, atol=1e-6)
    assert np.allclose(rotation_from_6d(moved(lift.tcp, as_head)[3:9]), turn_z(0.2) @ lift.tcp.R, atol=1e-6)


def test_answers_to_what_is_seen_by_name_are_checked():
    seen = stack([{"state": np.zeros((2, 3))}] * 4)
    assert seen["state"].shape == (4, 2, 3)
    with pytest.raises(
        ValueError, match=r"returned actions of shape \(3, 16, 10\); expected \(4, at least execute=8, 10\)"
    ):
        _ask(lambda _: np.zeros((3, 16, 10)), seen, execute=8)


@pytest.mark.slow
def test_images_are_those_of_the_recording():
    """Images are those of the recording, rendered in the same way and at the requested size."""
    sim = make("Lift", render=True)
    play = Play(sim, 30, Sight(cameras={"agentview": 48, "robot0_eye_in_hand": 32}))
    start = play.start(seed=3, film=False).cond
    assert start["agentview"].shape == (2, 48, 48, 3)
    assert start["robot0_eye_in_hand"].shape == (2, 32, 32, 3)
    assert np.array_equal(start["agentview"][0], start["agentview"][1])
    report = play.act(stay(sim, 4))
    assert report.frames == []
    assert np.array_equal(report.cond["agentview"][1], sim.render(48, "agentview"))
    assert not np.array_equal(report.cond["agentview"][0], report.cond["agentview"][1])
    assert len(play.start(seed=3, film=True).frames) == 0
    assert len(play.act(stay(sim, 2)).frames) == 2
    sim.close()
