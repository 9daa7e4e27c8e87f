"""Scripted experts of LIBERO-10, whose tasks have two parts, or one at the edge of the arm's reach.

Lengths are metres, angles radians, poses in the robot base frame, z up. As in `experts.py`, numbers were tuned by hand.
Points of an object are in the frame of its body.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from action_heads_lab.sim.arm import CLOSED, OPEN, Arm, heading, wrap
from action_heads_lab.sim.frames import UP, Pose, turn_z
from action_heads_lab.sim.libero_experts import TILT, into_basket, set_down, take, take_by_rim
from action_heads_lab.sim.libero_goal import back, leaning, turn_on_stove
from action_heads_lab.sim.mimicgen_experts import bring

LEFT, BURNER = np.array([0.0, 1.0, 0.0]), "flat_stove_1_burner"
KNOB, ON_BURNER = 0.076, 0.093  # height of the grasp over the middle of a pot, and of that over the burner below it
# Mug -> position of the axis of the cup and of the bar of the handle along x of the body.
MUGS = {"porcelain_mug_1": (0.017, -0.059), "white_yellow_mug_1": (-0.018, 0.064)}
CUP, BAR = 0.040, 0.056  # radius of the wall of a mug; height of the middle of its handle
DRAWER, CABINET, FRONT = "white_cabinet_1_cabinet_bottom", "white_cabinet_1_main", np.array([0.0, -0.110, 0.041])
BOOK, CADDY, COMPARTMENT = "black_book_1_main", "desk_caddy_1_main", np.array([0.033, 0.0, 0.0])
MICROWAVE, DOOR = "microwave_1_main", "microwave_1_microdoorroot"


def in_order(arm: Arm, parts: tuple[Callable[[Arm], None], ...]) -> None:
    """Solve a task part by part, and raise the hand between two parts."""
    for i, part in enumerate(parts):
        if i:
            arm.go(Pose(np.array([*arm.tcp.p[:2], max(arm.tcp.p[2], 0.30)]), arm.tcp.R), OPEN, tol=0.03, steps=30)
            arm.go(Pose(arm.tcp.p, arm.home), OPEN, tol=0.05, turn_tol=0.3, steps=30)
        part(arm)


def both_into_basket(arm: Arm, items: tuple[str, str]) -> None:
    """Put two items into the basket."""
    in_order(arm, tuple(lambda arm, item=item: into_basket(arm, item) for item in items))


def stove_and_pot(arm: Arm) -> None:
    """Turn on the stove and put the pot onto it."""
    in_order(arm, (turn_on_stove, lambda arm: pot_onto_stove(arm, "moka_pot_1", 0.0)))


def both_pots(arm: Arm) -> None:
    """Put both pots onto the stove, side by side."""
    in_order(
        arm,
        (lambda arm: pot_onto_stove(arm, "moka_pot_1", 0.045), lambda arm: pot_onto_stove(arm, "moka_pot_2", -0.045)),
    )


def pot_onto_stove(arm: Arm, pot: str, aside: float) -> None:
    """Take a pot by the knob on its lid, and put it onto the burner, `aside` m along base x from its middle."""
    arm.insistence = 0.15
    knob = Pose(arm.sim.body(f"{pot}_main").p + KNOB * UP, arm.home)
    arm.pick(knob, above=0.08, lift=0.20, tol=0.008, turn_tol=TILT, steps=10, speed=0.5)
    spot = arm.sim.body(BURNER).p + np.array([aside, 0.0, ON_BURNER])
    for above, tol, speed in ((0.08, 0.012, 0.6), (0.003, 0.006, 0.4)):
        hand = spot + above * UP + arm.tcp.p - arm.sim.body(f"{pot}_main").p
        arm.go(Pose(hand, arm.home), CLOSED, tol=tol, turn_tol=TILT, steps=90, speed=speed)
    arm.grip(OPEN, steps=8)
    arm.go(arm.tcp.raised(0.10), OPEN, tol=0.03, turn_tol=TILT, steps=20)


def bowl_into_drawer(arm: Arm) -> None:
    """Put the bowl into the open drawer and push the drawer shut."""
    # The fingers are along the front of the cabinet, since the hand is wider than the open drawer is deep.
    take_by_rim(arm, "akita_black_bowl_1", side=np.pi)
    drawer = arm.sim.body(DRAWER)
    set_down(arm, "akita_black_bowl_1", (drawer @ Pose(np.array([0.003, 0.0, 0.03]), np.eye(3))).p)
    arm.go(Pose(arm.tcp.p * [1, 1, 0] + 0.30 * UP - 0.10 * LEFT, arm.home), OPEN, tol=0.03, turn_tol=TILT, steps=30)
    R = leaning(turn_z(np.pi / 2) @ arm.home, 0.9)
    front = (drawer @ Pose(FRONT, np.eye(3))).p
    for out, up in ((0.12, 0.10), (0.05, 0.0)):
        arm.go(Pose(front - out * LEFT + up * UP, R), CLOSED, tol=0.015, turn_tol=TILT, steps=50)
    for _ in range(100):
        if arm.sim.body(DRAWER).p[1] - arm.sim.body(CABINET).p[1] > 0.001:
            break
        arm.toward(Pose(np.array([front[0], arm.tcp.p[1] + 0.03, front[2]]), R), CLOSED)


def mug_onto_plate(arm: Arm, mug: str, plate: str) -> None:
    """Take a mug by its rim, opposite its handle, and put it onto the middle of a plate."""
    arm.insistence = 0.15
    axis, handle = MUGS[mug]
    thing = arm.sim.body(f"{mug}_main")
    away = np.sign(axis - handle) * thing.R[:, 0]
    rim = thing.p + axis * thing.R[:, 0] + CUP * away
    rim[2] = arm.sim.corners(mug)[:, 2].max() - 0.02
    arm.pick(
        Pose(rim, arm.fingers_along(heading(away))),
        above=0.10,
        lift=0.12,
        tol=0.008,
        turn_tol=TILT,
        steps=12,
        speed=0.5,
    )
    corners = arm.sim.corners(plate)
    set_down(arm, mug, np.array([*arm.sim.body(f"{plate}_main").p[:2], corners[:, 2].max()]))


def mugs_onto_plates(arm: Arm) -> None:
    """Put the white mug onto the left plate and the yellow and white one onto the right plate."""
    in_order(
        arm,
        (
            lambda arm: mug_onto_plate(arm, "porcelain_mug_1", "plate_1"),
            lambda arm: mug_onto_plate(arm, "white_yellow_mug_1", "plate_2"),
        ),
    )


def mug_and_pudding(arm: Arm) -> None:
    """Put the white mug onto the plate and the chocolate pudding to its right."""
    in_order(arm, (lambda arm: mug_onto_plate(arm, "porcelain_mug_1", "plate_1"), _pudding))


def _pudding(arm: Arm) -> None:
    low = arm.sim.corners("chocolate_pudding_1")[:, 2].min()
    take(arm, "chocolate_pudding_1", lift=0.15)
    right = arm.sim.site("living_room_table_plate_right_region").p
    set_down(arm, "chocolate_pudding_1", np.array([right[0], right[1] + 0.015, low]))


def book_into_caddy(arm: Arm) -> None:
    """Put the book into the back compartment of the caddy, a quarter turn from where it stands.

    A book on the floor of the compartment is 3 mm too low to count as inside, so the expert ends when it lets go.
    """
    book, caddy = arm.sim.body(BOOK), arm.sim.body(CADDY)
    top = book.p + book.R @ [0.0, -0.012, 0.112]
    R = arm.fingers_along(heading(book.R[:, 0]))
    arm.pick(Pose(top, R), above=0.10, lift=0.24, tol=0.008, steps=10)
    turns = [wrap(heading(caddy.R[:, 0]) - heading(arm.sim.body(BOOK).R[:, 0]) + half) for half in (0.0, np.pi)]
    turn = min(turns, key=lambda turn: abs(wrap(heading(arm.tcp.R[:, 1]) - arm.home_fingers) + turn))
    held = arm.sim.body(BOOK)
    R = turn_z(turn) @ held.R
    spot = (caddy @ Pose(COMPARTMENT, np.eye(3))).p - R @ [0.0, -0.012, 0.0]
    for height, tol, speed in ((0.20, 0.02, 1.0), (0.18, 0.006, 0.6), (0.06, 0.006, 0.4)):
        bring(arm, BOOK, Pose(spot + height * UP, R), tol=tol, turn_tol=0.08, steps=90, speed=speed)
    arm.grip(OPEN, steps=1)


def mug_into_microwave(arm: Arm) -> None:
    """Hold the mug by its handle, put it into the microwave, and push the door shut."""
    arm.insistence = 0.15
    mug, (_, handle) = "white_yellow_mug_1_main", MUGS["white_yellow_mug_1"]
    thing, oven = arm.sim.body(mug), arm.sim.body(MICROWAVE)
    R = leaning(turn_z(np.pi / 2) @ arm.home, 0.7)  # not further, since the other mug is behind the hand
    R = turn_z(heading(-thing.R[:, 0]) - np.pi / 2) @ R
    grasp = Pose(thing.p + thing.R @ [handle, 0.0, BAR], R)
    for distance, grip, speed in ((0.12, OPEN, 1.0), (-0.012, OPEN, 0.5)):
        arm.go(back(grasp, distance), grip, tol=0.01, turn_tol=0.1, steps=70, speed=speed)
    arm.grip(CLOSED, 10)
    straight = turn_z(-np.pi / 2 - heading(thing.R[:, 0])) @ thing.R  # the handle points to the right
    for y, z, tol in ((-0.30, 0.08, 0.02), (-0.20, 0.04, 0.01), (-0.006, 0.04, 0.01), (-0.006, 0.028, 0.006)):
        goal = oven.p + np.array([0.0, y, z])
        bring(arm, mug, Pose(goal, straight), tol=tol, turn_tol=0.15, steps=60, speed=0.6)
    arm.grip(OPEN, 8)
    arm.go(back(arm.tcp, 0.12), OPEN, tol=0.03, turn_tol=0.3, steps=25)
    arm.go(arm.tcp.raised(0.25), OPEN, tol=0.04, turn_tol=0.4, steps=25)
    shut_door(arm)


def shut_door(arm: Arm) -> None:
    """Push the door of the microwave shut, from outside, with closed fingers."""
    R = leaning(turn_z(np.pi / 2) @ arm.home, 0.5)

    def beside(angle: float, out: float, z: float) -> Pose:
        hinge = arm.sim.body(DOOR)
        across = turn_z(angle) @ np.array([0.16, -out, 0.0])
        return Pose(np.array([*(hinge.p + across)[:2], z]), R)

    def angle() -> float:
        return wrap(heading(arm.sim.body(DOOR).R[:, 0]) - heading(arm.sim.body(MICROWAVE).R[:, 0]))

    for z in (0.32, 0.12):  # m
        arm.go(beside(angle(), 0.12, z), CLOSED, tol=0.03, turn_tol=0.3, steps=60)
    for _ in range(120):
        if angle() > -0.004:
            break
        arm.toward(beside(min(angle() + 0.3, 0.1), 0.03, 0.12), CLOSED)
