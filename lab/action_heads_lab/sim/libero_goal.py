"""Scripted experts of LIBERO-Goal, which has ten tasks at one table.

Lengths are metres, angles radians, poses in the robot base frame, z up; the cabinet is on the right (-y), its drawers
open to the left. As in `experts.py`, numbers were tuned by hand. Positions of handles and of places to set objects down
are constants in the frame of a body that the task observes. The front of the stove is a position on the table.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads_lab.sim.arm import CLOSED, OPEN, Arm
from action_heads_lab.sim.frames import UP, Pose, turn_z
from action_heads_lab.sim.libero_experts import TILT, middle_of, set_down, take, take_by_rim

BOWL, BOTTLE, CHEESE, PLATE = "akita_black_bowl_1", "wine_bottle_1", "cream_cheese_1", "plate_1"
CABINET, DRAWER, LEFT = "wooden_cabinet_1_main", "wooden_cabinet_1_cabinet_{}", np.array([0.0, 1.0, 0.0])

SPOTS = {
    "stove": ("flat_stove_1_burner", np.array([0.0, 0.0, 0.026])),
    "cabinet": (CABINET, np.array([0.04, 0.0, 0.223])),  # on the near half
    "drawer": (DRAWER.format("top"), np.array([0.003, 0.006, 0.18])),  # 2 cm above its floor, for the fingers
}
HANDLES = {"top": np.array([0.0, -0.102, 0.184]), "middle": np.array([0.0, -0.102, 0.110])}
FRONT_OF_STOVE = np.array([0.61, 0.20])  # x, y
FULLY_OPEN, BOWL_FITS = 0.155, -0.105  # opening of a drawer; y of the body of the drawer


def open_middle_drawer(arm: Arm) -> None:
    """Open the middle drawer."""
    _open_drawer(arm, "middle", arm.sim.body(CABINET).p[1] + FULLY_OPEN)


def bowl_to(arm: Arm, where: str) -> None:
    """Put the bowl onto the stove or the cabinet."""
    take_by_rim(arm, BOWL)
    set_down(arm, BOWL, _in_body(arm, *SPOTS[where]))


def bowl_into_drawer(arm: Arm) -> None:
    """Open the top drawer and put the bowl inside.

    The open drawer hangs over the bowl, so the hand leans away from it.
    """
    _open_drawer(arm, "top", BOWL_FITS)
    arm.grip(OPEN, 6)
    arm.go(Pose(arm.tcp.p + 0.06 * LEFT, arm.tcp.R), OPEN, tol=0.02, turn_tol=0.3, steps=20)

    R = leaning(arm.home, -0.28)
    middle, radius, top = _round(arm, BOWL)
    rim = Pose(np.array([middle[0], middle[1] + radius - 0.002, top]) + 0.024 * R[:, 2], R)
    arm.go(back(rim, 0.14), OPEN, tol=0.03, turn_tol=TILT)
    arm.go(back(rim, 0.05), OPEN, tol=0.012, turn_tol=TILT, steps=40)
    arm.go(rim, OPEN, tol=0.006, turn_tol=TILT, steps=40, speed=0.5)
    arm.grip(CLOSED, 10, at=rim)
    beside = Pose(rim.p + np.array([-0.02, 0.06, 0.03]), R)
    arm.go(beside, CLOSED, tol=0.02, turn_tol=TILT, steps=40)
    arm.go(beside.raised(0.18), CLOSED, tol=0.02, turn_tol=TILT, steps=40)
    set_down(arm, BOWL, _in_body(arm, *SPOTS["drawer"]))


def plate_to_stove(arm: Arm) -> None:
    """Pull the plate over the table by its rim, repeatedly, since it slips. A pushed plate climbs onto the fingers."""
    arm.insistence = 0.15
    side = np.radians(100)  # of the plate, so that the far finger clears the cream cheese
    while True:
        middle, radius, top = _round(arm, PLATE)
        rim = middle[:2] + (radius - 0.01) * np.array([np.cos(side), np.sin(side)])
        grasp = Pose(np.array([*rim, top - 0.01]), arm.fingers_along(side))
        arm.pick(grasp, above=0.08, lift=0.0, tol=0.01, turn_tol=TILT, steps=10, speed=0.5)
        here, missing = arm.tcp.p, FRONT_OF_STOVE - arm.sim.body(f"{PLATE}_main").p[:2]
        arm.go(Pose(np.array([*(here[:2] + missing), here[2]]), grasp.R), CLOSED, tol=0.012, turn_tol=TILT, speed=0.4)
        arm.grip(OPEN, 6)
        if np.linalg.norm(FRONT_OF_STOVE - arm.sim.body(f"{PLATE}_main").p[:2]) < 0.025:
            return
        arm.go(arm.tcp.raised(0.06), OPEN, tol=0.02, steps=15)


def cheese_into_bowl(arm: Arm) -> None:
    """Put the cream cheese into the bowl."""
    take(arm, CHEESE, lift=0.15)
    middle, _, top = _round(arm, BOWL)
    set_down(arm, CHEESE, np.array([*middle[:2], top - 0.02]))


def turn_on_stove(arm: Arm) -> None:
    """Turn the bar on the knob of the stove, from above."""
    arm.insistence = 0.15
    grasp = Pose(arm.sim.body("flat_stove_1_button").p + 0.04 * UP, arm.home)
    arm.go(grasp.raised(0.08), OPEN, tol=0.012, turn_tol=TILT)
    arm.go(grasp, OPEN, tol=0.008, turn_tol=TILT, steps=40, speed=0.5)
    arm.grip(CLOSED, 8, at=grasp)
    arm.go(Pose(grasp.p, turn_z(1.0) @ arm.home), CLOSED, tol=0.03, turn_tol=0.1, steps=60)


def bottle_onto_cabinet(arm: Arm) -> None:
    """Put the bottle onto the cabinet."""
    _take_bottle(arm, 0.0)
    set_down(arm, BOTTLE, _in_body(arm, *SPOTS["cabinet"]))


def bottle_onto_rack(arm: Arm) -> None:
    """Put the bottle along the upper board of the rack, which rises to the right, with its foot at the lower end."""
    _take_bottle(arm, -0.4)  # a grasp that leans to the other side lets the hand lean less later
    bottle = arm.sim.body(f"{BOTTLE}_main")
    foot = _in_body(arm, "wine_rack_1_main", np.array([0.0, -0.071, 0.239]))
    goal, off_board = Pose(foot, leaning(bottle.R, 0.95)), np.array([0.0, 0.52, 0.85])
    for distance in (0.08, 0.005):
        hand = goal @ arm.sim.body(f"{BOTTLE}_main").inverse() @ arm.tcp
        arm.go(Pose(hand.p + distance * off_board, hand.R), CLOSED, tol=0.01, turn_tol=0.1, speed=0.6)
    arm.grip(OPEN, 8)
    arm.go(back(arm.tcp, 0.08), OPEN, tol=0.03, turn_tol=0.3, steps=15)


def _open_drawer(arm: Arm, drawer: str, far: float) -> None:
    """Pull a drawer by its handle until its body is at y `far`, and grasp again if the fingers slip off."""
    arm.insistence = 0.15
    body, R = DRAWER.format(drawer), leaning(arm.home, -1.2)
    handle = Pose(_in_body(arm, body, HANDLES[drawer]), R)
    arm.go(Pose(back(handle, 0.08).p + 0.05 * LEFT + 0.09 * UP, R), OPEN, tol=0.03, turn_tol=0.3, steps=60)
    while arm.sim.body(body).p[1] < far:
        # The hand comes from a little below, since another handle may be above.
        arm.go(back(handle, 0.08).raised(-0.01), OPEN, tol=0.012, turn_tol=0.15, steps=60)
        arm.go(handle, OPEN, tol=0.005, turn_tol=0.15, steps=40, speed=0.5)
        arm.grip(CLOSED, 8, at=handle)
        while arm.sim.body(body).p[1] < far and np.linalg.norm(arm.tcp.p - handle.p) < 0.03:
            arm.toward(Pose(arm.tcp.p + 0.02 * LEFT, R), CLOSED)  # slowly, so that the fingers do not slip
            handle = Pose(_in_body(arm, body, HANDLES[drawer]), R)


def _take_bottle(arm: Arm, lean: float) -> None:
    """Take the bottle by its neck, with the fingers along base x, for which the wrist has room."""
    arm.insistence = 0.15
    neck = arm.sim.body(f"{BOTTLE}_main").p + 0.12 * UP
    R = leaning(turn_z(np.pi / 2) @ arm.home, lean)
    arm.pick(Pose(neck, R), above=0.08, lift=0.15, turn_tol=TILT, steps=10)


def leaning(R: np.ndarray, angle: float) -> np.ndarray:
    """Return `R` (3, 3) turned about base x, so that a hand that points down points more to the left."""
    return Rotation.from_euler("x", angle).as_matrix() @ R


def back(pose: Pose, distance: float) -> Pose:
    """Return the pose of the hand moved back by `distance` m against its direction."""
    return Pose(pose.p - distance * pose.R[:, 2], pose.R)


def _in_body(arm: Arm, body: str, point: np.ndarray) -> np.ndarray:
    """Convert a `point` (3,) from the frame of `body` to the base frame."""
    return (arm.sim.body(body) @ Pose(point, np.eye(3))).p


def _round(arm: Arm, item: str) -> tuple[np.ndarray, float, float]:
    """Return the middle (3,), the radius and the z of the rim of a bowl or plate."""
    corners = arm.sim.corners(item)
    return middle_of(corners), float(np.ptp(corners[:, :2], axis=0).mean()) / 2, float(corners[:, 2].max())
