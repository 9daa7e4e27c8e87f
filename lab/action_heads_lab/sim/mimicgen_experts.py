"""Scripted experts of MimicGen's precise tasks, which control the pose of the held object instead of the hand.

Lengths are metres, angles radians, poses in the robot base frame, z up. As in `experts.py`, numbers were tuned by
hand. Sizes are those of MimicGen's models.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads_lab.sim.arm import CLOSED, OPEN, Arm, heading, wrap
from action_heads_lab.sim.experts import hand_for, within_reach
from action_heads_lab.sim.frames import UP, Pose, turn_z

NEEDLE = "needle_obj_root"
TRIPOD, RING = "tripod_obj_root", 0.088  # m: height of the ring over the origin of the tripod
POD, MACHINE = "coffee_pod_main", "coffee_machine_root"
EITHER_WAY = np.array([-1.0, 0.0, 1.0])


def threading(arm: Arm) -> None:
    """Put a needle, 10 mm thick and held by its handle, through a square hole of 16 mm, from the side within reach."""
    needle, ring = arm.sim.body(NEEDLE), arm.sim.body(TRIPOD)  # the axis of the ring is the tripod's x
    back = needle.R[:, 1]  # of the needle, from its point to its handle
    across = wrap(heading(back) + np.pi / 2 - arm.home_fingers, np.pi)
    goals = []
    for side in (ring.R[:, 0], -ring.R[:, 0]):  # side of the handle when the point goes in
        turn = wrap(heading(side) - heading(back))
        goals += [(turn + more, (ring.p + 0.15 * side)[:2]) for more in 2 * np.pi * EITHER_WAY]
    grasp_turn, turn = within_reach(across + np.pi * EITHER_WAY, goals)

    _turn_up_here(arm, grasp_turn)
    handle = needle.p + 0.06 * back
    over = ring.p[2] + RING + 0.07  # travel with the needle above the ring
    grasp = Pose(handle, turn_z(grasp_turn) @ arm.home)
    arm.pick(grasp, above=0.08, lift=over - handle[2], tol=0.006, steps=10)
    yaw = heading(arm.sim.body(NEEDLE).R[:, 0])
    for share in (0.5, 0.8):
        if abs(turn) * share > 1.0:
            here = np.array([*arm.sim.body(NEEDLE).p[:2], over])
            bring(arm, NEEDLE, Pose(here, turn_z(yaw + share * turn)), tol=0.05, turn_tol=0.3, steps=30)

    # The tripod drops 5 mm at reset, so read its pose again. The origin of the needle is 2 cm behind its middle and
    # 8 cm behind its point.
    goal = Pose(arm.sim.body(TRIPOD).p + RING * UP, turn_z(yaw + turn))
    ahead = -goal.R[:, 1]
    bring(arm, NEEDLE, Pose(goal.p - 0.13 * ahead + 0.07 * UP, goal.R), tol=0.02, turn_tol=0.1, steps=80)
    bring(arm, NEEDLE, Pose(goal.p - 0.11 * ahead, goal.R), tol=0.002, turn_tol=0.015, steps=60, speed=0.6)
    slide(arm, NEEDLE, Pose(goal.p - 0.016 * ahead, goal.R), ahead, tol=0.004)


def three_piece_assembly(arm: Arm) -> None:
    """Put the first piece into the square hole of the base, and the second over the ridge of the first."""
    for piece, below, sides, high, deep, grasp_at in (
        ("piece_1_root", "base_root", 4, 0.032, 0.055, 0.04),
        ("piece_2_root", "piece_1_root", 2, 0.065, 0.085, 0.06),
    ):
        part, place = arm.sim.body(piece), arm.sim.body(below)
        across = wrap(heading(part.R[:, 0]) - arm.home_fingers, np.pi)
        error = heading(place.R[:, 0]) - heading(part.R[:, 0])
        turns = [wrap(error + side * 2 * np.pi / sides) for side in range(sides)]
        grasp_turn, turn = within_reach(across + np.pi * EITHER_WAY, [(turn, place.p[:2]) for turn in turns])
        _turn_up_here(arm, grasp_turn)
        arm.pick(Pose(part.p + grasp_at * UP, turn_z(grasp_turn) @ arm.home), above=0.10, lift=0.18, tol=0.008)
        draw_in(arm, CLOSED)

        yaw = heading(arm.sim.body(piece).R[:, 0])
        if abs(turn) > 1.2:
            halfway = Pose(arm.sim.body(piece).p, turn_z(yaw + turn / 2))
            bring(arm, piece, halfway, tol=0.05, turn_tol=0.3, steps=30)
        goal = Pose(place.p + high * UP, turn_z(yaw + turn))
        bring(arm, piece, goal.raised(deep + 0.04), tol=0.012, steps=70)
        bring(arm, piece, goal.raised(deep), tol=0.002, turn_tol=0.015, steps=50, speed=0.6)
        slide(arm, piece, goal, -UP, tol=0.004)
        arm.grip(OPEN, steps=8)
        arm.go(arm.tcp.raised(0.06), OPEN, tol=0.02, steps=20)
        draw_in(arm, OPEN)
        arm.go(Pose(arm.tcp.p, arm.home).raised(0.06), OPEN, tol=0.03, steps=20)


def coffee(arm: Arm) -> None:
    """Put a pod into the holder of the machine, push the lid from behind until it falls, and press it down."""
    pod, machine = arm.sim.body(POD), arm.sim.body(MACHINE)
    R = arm.fingers_along(heading(machine.R[:, 0]))  # the thin side of the hand fits beside the open lid
    arm.go(arm.tcp.raised(0.12), OPEN, tol=0.03, steps=20)  # otherwise the wrist pushes the machine away
    arm.pick(Pose(pod.p + 0.02 * UP, R), above=0.10, lift=0.27)
    machine = arm.sim.body(MACHINE)  # it is not fixed, and may have moved
    R = arm.fingers_along(heading(machine.R[:, 0]))
    seat = Pose(machine.p + machine.R @ [0.0, 0.106, 0.0725], arm.sim.body(POD).R)
    bring(arm, POD, seat.raised(0.09), tol=0.012, steps=80)
    bring(arm, POD, seat.raised(0.04), tol=0.002, turn_tol=0.03, steps=50, speed=0.6)
    slide(arm, POD, seat.raised(0.008), -UP, tol=0.003)
    arm.grip(OPEN, steps=6)

    def at(y: float, z: float) -> Pose:
        """Return the pose of the TCP at (0, y, z) in the frame of the machine."""
        return Pose(machine.p + machine.R @ [0.0, y, z], R)

    for y, z, tol in ((0.11, 0.24, 0.02), (-0.03, 0.24, 0.02), (-0.03, 0.165, 0.01)):
        arm.go(at(y, z), CLOSED if z < 0.2 else OPEN, tol=tol, steps=40)
    arm.go(at(0.09, 0.165), CLOSED, tol=0.01, steps=40, speed=0.4)
    arm.go(at(0.12, 0.20), CLOSED, tol=0.02, steps=40)
    arm.go(at(0.13, 0.11), CLOSED, tol=0.01, steps=20, speed=0.4)


def into_drawer(arm: Arm, cabinet: str, thing: str, hold: tuple[float, float, float], along: int, above: float) -> None:
    """Open the drawer, put the object in, and close it.

    Args:
        arm: the arm.
        cabinet: body of the cabinet.
        thing: body of the object.
        hold: position of the grasp in the frame of the object.
        along: index of the axis of the object that the fingers are across.
        above: height of the object over the middle of the drawer when it is released.
    """
    slide_drawer(arm, cabinet, 0.13)
    it = arm.sim.body(thing)
    spot = it.p + it.R @ hold
    upright = arm.fingers_along(heading(it.R[:, along]) + np.pi / 2)
    near = np.linalg.norm(spot[:2])  # to the robot; too near, the elbow has no room
    R = leaning(spot, 0.35) @ upright if near < 0.36 else upright
    arm.go(Pose(spot + 0.22 * UP, R), OPEN, tol=0.03, turn_tol=0.2, steps=60)  # above the drawer
    arm.pick(Pose(spot, R), above=0.10, lift=0.05)
    outward = max(1.0, 0.45 / near)
    arm.go(Pose(arm.tcp.p * [outward, outward, 1.0] + 0.20 * UP, R), CLOSED, tol=0.03, steps=40)
    arm.go(Pose(arm.tcp.p, upright), CLOSED, tol=0.03, steps=20)

    drawer = arm.sim.body(f"{cabinet}_drawer_link")
    middle = drawer.p + drawer.R @ [0.0, -0.022, above]
    over = Pose(middle + arm.tcp.p - arm.sim.body(thing).p, upright)
    arm.go(over.raised(0.16), CLOSED, tol=0.02)
    arm.go(over.raised(0.03), CLOSED, tol=0.01, steps=40, speed=0.6)
    arm.go(over, CLOSED, tol=0.006, steps=20, speed=0.3)
    arm.grip(OPEN, steps=6)
    arm.go(arm.tcp.raised(0.15), OPEN, tol=0.03, steps=30)
    slide_drawer(arm, cabinet, 0.0)


def slide_drawer(arm: Arm, cabinet: str, opening: float) -> None:
    """Slide the drawer until it is `opening` m open, with closed fingers behind the bar of its handle."""
    drawer = arm.sim.body(f"{cabinet}_drawer_link")
    R = arm.fingers_along(heading(drawer.R[:, 0]))
    for height, tol in ((0.20, 0.02), (0.14, 0.006), (0.02, 0.01)):
        arm.go(Pose(drawer.p + drawer.R @ [0.0, -0.128, height], R), CLOSED, tol=tol, steps=60)
    for _ in range(100):
        drawer = arm.sim.body(f"{cabinet}_drawer_link")
        missing = (arm.sim.body(f"{cabinet}_base").inverse() @ drawer).p[1] + 0.01 + opening  # m, along its -y
        if abs(missing) < 0.005:
            break
        lead = np.clip(3 * missing, -0.04, 0.04) + 0.012 * np.sign(missing)  # 12 mm: room of the fingers behind the bar
        arm.toward(Pose(drawer.p + drawer.R @ [0.0, -0.128 - lead, 0.02], R), CLOSED)
    arm.go(arm.tcp.raised(0.15), CLOSED, tol=0.03, steps=20)


def steer(arm: Arm, body: str, goal: Pose, speed: float = 1.0) -> None:
    """Move the held `body` towards `goal` for one tick, with a target beyond it, since the arm stops short."""
    held = arm.sim.body(body)
    beyond = np.clip(2 * (goal.p - held.p), -0.02, 0.02)
    turn = np.clip(Rotation.from_matrix(goal.R @ held.R.T).as_rotvec(), -0.1, 0.1)
    asked = Pose(goal.p + beyond, Rotation.from_rotvec(turn).as_matrix() @ goal.R)
    arm.toward(hand_for(arm, body, asked), CLOSED, speed)


def bring(arm: Arm, body: str, goal: Pose, tol: float, turn_tol=0.05, steps=60, speed=1.0) -> None:
    """Steer until `body` is within `tol` m and `turn_tol` rad of `goal`, or for at most `steps` ticks."""
    for _ in range(steps):
        held = arm.sim.body(body)
        angle = Rotation.from_matrix(goal.R @ held.R.T).magnitude()
        if np.linalg.norm(goal.p - held.p) < tol and angle < turn_tol:
            break
        steer(arm, body, goal, speed)


def slide(arm: Arm, body: str, goal: Pose, along: np.ndarray, tol: float, steps=80) -> None:
    """Steer to `goal` on the line through it `along` (3,), and move forwards only within `tol` m of the line."""
    for _ in range(steps):
        to_go = (goal.p - arm.sim.body(body).p) @ along
        if to_go < 0.003:
            break
        beside = np.linalg.norm(goal.p - to_go * along - arm.sim.body(body).p)
        step = 0.015 if beside < tol else 0.0
        steer(arm, body, Pose(goal.p - max(to_go - step, 0.0) * along, goal.R), speed=0.3)


def _turn_up_here(arm: Arm, turn: float) -> None:
    """Do half of a large turn before the hand goes down."""
    if abs(turn) > 1.2:
        arm.go(Pose(arm.tcp.p, turn_z(turn / 2) @ arm.home), OPEN, turn_tol=0.2, steps=30)


def draw_in(arm: Arm, grip: float) -> None:
    """Come back from the edge of reach with leaning fingers, since a straight arm cannot pull an upright hand."""
    upright = arm.tcp.R
    for _ in range(3):
        here = arm.tcp.p
        if np.linalg.norm(here[:2]) < 0.70:
            break
        arm.go(Pose(here * [0.9, 0.9, 1.0], leaning(here, 0.4) @ upright), grip, tol=0.01, turn_tol=0.1, steps=20)


def leaning(at: np.ndarray, angle: float) -> np.ndarray:
    """Return the rotation (3, 3) that leans a hand at `at` by `angle`, with its fingers towards the robot's foot."""
    return Rotation.from_rotvec(angle * np.cross(UP, at) / np.linalg.norm(at[:2])).as_matrix()
