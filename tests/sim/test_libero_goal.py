"""A drawer that slips, with a made-up arm and without LIBERO."""

import numpy as np
import pytest
from action_heads_lab.sim.arm import Arm, pointing_down
from action_heads_lab.sim.frames import Pose, rotation_from_6d
from action_heads_lab.sim.libero_goal import FULLY_OPEN, HANDLES, LEFT, open_middle_drawer

pytestmark = pytest.mark.sim
TURNED = np.diag([-1.0, -1.0, 1.0])  # pose of the cabinet, whose drawers open to the left
SHUT = Pose(np.array([0.7, -0.24, 0.0]), TURNED)


class Kitchen:
    """A hand that reaches its target at once, and a drawer that follows it while its fingers are closed."""

    def __init__(self, slips: int):
        self.slips, self.open, self.held, self.times_held = slips, 0.0, False, 0
        self.tcp = Pose(np.array([0.45, 0.0, 0.25]), pointing_down(-np.pi / 2))

    def body(self, name: str) -> Pose:
        return Pose(SHUT.p + self.open * LEFT if name.endswith("middle") else SHUT.p, TURNED)

    def step(self, action: np.ndarray) -> None:
        handle = (self.body("middle") @ Pose(HANDLES["middle"], TURNED)).p
        was, self.tcp = self.tcp, Pose(action[:3], rotation_from_6d(action[3:9]))
        near = np.linalg.norm(was.p - handle) < 0.01
        if near and action[9] > 0 and not self.held:
            self.held, self.times_held = True, self.times_held + 1
        if action[9] < 0 or (self.times_held <= self.slips and self.open > 0.05 * self.times_held):
            self.held = False
        if self.held:
            self.open += self.tcp.p[1] - was.p[1]


@pytest.mark.parametrize("slips", [0, 1, 2])
def test_takes_a_handle_again_that_it_lost(slips):
    sim = Kitchen(slips)
    open_middle_drawer(Arm(sim, sim.step, steps=300))
    assert sim.open > FULLY_OPEN - 1e-9
    assert sim.times_held == slips + 1
    np.testing.assert_allclose(sim.tcp.R[:, 0], [1, 0, 0], atol=1e-6)  # fingers above and below the handle
    assert sim.tcp.R[2, 2] > -0.5
