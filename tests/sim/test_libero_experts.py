"""Room for the hand on made-up tables, without LIBERO."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from action_heads_lab.sim.arm import PADS, pointing_down
from action_heads_lab.sim.frames import Pose, turn_z
from action_heads_lab.sim.libero_experts import HAND, around, room_at

pytestmark = pytest.mark.sim
ALONG_X = pointing_down(0.0)  # fingers that open along x


def table(**boxes):
    """Return the shapes around `thing`, at the origin, on a table of boxes, each ((middle), (half sizes))."""
    boxes = {"thing": ((0, 0, 0.02), (0.02, 0.02, 0.02))} | boxes
    corners = np.array(list(itertools.product((-1, 1), repeat=3)))
    sim = SimpleNamespace(
        env=SimpleNamespace(obj_body_id=dict.fromkeys(boxes)),
        shapes=lambda name: [corners * boxes[name][1] + boxes[name][0]],
    )
    return around(sim, "thing")


def test_a_tall_neighbour_is_as_far_from_the_hand_as_it_is():
    grasp = Pose(np.array([0, 0, 0.02]), ALONG_X)
    others = table(can=((0.20, 0, 0.05), (0.03, 0.03, 0.05)))
    assert room_at(grasp, others) == pytest.approx(0.20 - 0.03 - HAND[0][1])
    # A hand across the thin side leaves more room, and turning the table with the hand changes nothing.
    across = Pose(grasp.p, turn_z(np.pi / 2) @ ALONG_X)
    assert room_at(across, others) == pytest.approx(0.20 - 0.03 - HAND[0][0])
    beside = table(can=((0, 0.20, 0.05), (0.03, 0.03, 0.05)))
    assert room_at(across, beside) == pytest.approx(room_at(grasp, others))


@pytest.mark.parametrize(("x", "touches"), [(0.049, True), (0.09, False)])
def test_what_is_lower_than_the_hand_minds_the_fingers_alone(x, touches):
    low = table(box=((x, 0, 0.015), (0.005, 0.02, 0.015)))
    room = room_at(Pose(np.array([0, 0, 0.01 + PADS]), ALONG_X), low)
    assert (room < 0) == touches
    assert room < HAND[0][1]


def test_neither_the_thing_itself_nor_what_lies_below_the_fingers_is_in_the_way():
    others = table(mat=((0, 0, -0.01), (0.3, 0.3, 0.01)))
    assert room_at(Pose(np.array([0, 0, 0.02]), ALONG_X), others) == 1.0
