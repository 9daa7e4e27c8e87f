"""Parts of the experts of LIBERO-10, with a made-up arm and without LIBERO."""

import numpy as np
import pytest
from action_heads_lab.sim.arm import OPEN, Arm, heading, pointing_down
from action_heads_lab.sim.frames import Pose, rotation_from_6d, turn_z
from action_heads_lab.sim.libero_long import DOOR, MICROWAVE, in_order, shut_door
from action_heads_lab.sim.libero_tasks import LONG, TASKS
from action_heads_lab.sim.tasks import description

pytestmark = pytest.mark.sim
HINGE, FACE = np.array([0.48, 0.26, 0.1]), 0.036  # m: distance of the fingers from the plane of the door at contact


class Kitchen:
    """A hand that reaches its target at once, and the door of a microwave that turns away from its fingers."""

    def __init__(self, angle: float):
        self.angle, self.inside = angle, 0.0
        self.tcp = Pose(np.array([0.45, 0.0, 0.25]), pointing_down(-np.pi / 2))

    def body(self, name: str) -> Pose:
        return Pose(HINGE, turn_z(self.angle)) if name == DOOR else Pose(HINGE, np.eye(3))

    def step(self, action: np.ndarray) -> None:
        self.grip = action[9]
        self.tcp = Pose(action[:3], rotation_from_6d(action[3:9]))
        along, out, _ = turn_z(self.angle).T @ (self.tcp.p - HINGE)
        if 0 < along < 0.25 and self.tcp.p[2] < 0.2:
            self.inside = max(self.inside, out + FACE)
            self.angle = min(0.0, max(self.angle, self.angle + np.arctan2(out + FACE, along)))


@pytest.mark.parametrize("angle", [-2.0, -1.3, -0.5])
def test_pushes_a_door_shut_from_outside(angle):
    sim = Kitchen(angle)
    shut_door(Arm(sim, sim.step, steps=300))
    assert heading(sim.body(DOOR).R[:, 0]) - heading(sim.body(MICROWAVE).R[:, 0]) > -0.005
    assert sim.inside < 0.075  # by one tick: the hand is never on the other side


def test_raises_the_open_hand_between_two_parts():
    sim, at = Kitchen(0.0), []

    def part(arm: Arm) -> None:
        at.append((arm.tcp.p[2], getattr(sim, "grip", None)))
        arm.go(arm.tcp.raised(-0.15), -OPEN)

    in_order(Arm(sim, sim.step, steps=300), (part, part))
    (first, _), (second, grip) = at
    assert first == 0.25
    assert second > 0.27
    assert grip == OPEN


def test_a_policy_is_told_a_sentence_without_the_scene():
    assert len(LONG) == 10
    sentences = [description(name) for name in TASKS if name.startswith("libero_10/")]
    assert sentences[2] == "turn on the stove and put the moka pot on it"
    assert all(sentence == sentence.lower() and "scene" not in sentence for sentence in sentences)
