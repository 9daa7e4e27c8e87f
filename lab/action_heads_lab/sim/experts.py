"""Scripted experts, which know the true poses of the objects and move the arm through waypoints.

An expert is a function of an `Arm`. Lengths are metres, angles radians, poses in the robot base frame, z up.
Clearances and tolerances were tuned by hand, by watching failures.
"""

from __future__ import annotations

import numpy as np

from action_heads_lab.sim.arm import CLOSED, OPEN, Arm, heading, wrap
from action_heads_lab.sim.frames import UP, Pose, turn_z


def lift(arm: Arm, name: str = "cube_main") -> None:
    """Lift a cube."""
    cube = arm.sim.body(name)
    arm.pick(Pose(cube.p, arm.fingers_along(heading(cube.R[:, 0]), np.pi / 2)), above=0.10, lift=0.15)


def stack(arm: Arm) -> None:
    """Put the red cube (4 cm) onto the green one (5 cm), with aligned faces."""
    _put_on(arm, "cubeA_main", "cubeB_main", apart=0.045)


def stack_three(arm: Arm) -> None:
    """Put the red cube onto the green one as `stack` does, then the blue cube (4 cm) onto the red one."""
    _put_on(arm, "cubeA_main", "cubeB_main", apart=0.045)
    arm.go(Pose(arm.tcp.p, arm.home), OPEN, tol=0.03, steps=20)
    _put_on(arm, "cubeC_main", "cubeA_main", apart=0.040)


def _put_on(arm: Arm, upper: str, lower: str, apart: float) -> None:
    """Put one cube onto another, with `apart` m between their centres."""
    red, green = arm.sim.body(upper), arm.sim.body(lower)
    grasp = grasp_beside(arm, heading(red.R[:, 0]), red.p, green.p)
    arm.pick(Pose(red.p, grasp), above=0.10, lift=0.12)

    # The grasp has moved the cube a little, so the target is computed from its pose in the hand, twice.
    red = arm.sim.body(upper)
    turn = wrap(heading(green.R[:, 0]) - heading(red.R[:, 0]), np.pi / 2)
    if abs(wrap(heading(grasp[:, 1]) - arm.home_fingers) + turn) > 1.7:  # beyond the wrist, so use another face
        turn -= np.sign(turn) * np.pi / 2
    goal = Pose(green.p + (apart + 0.003) * UP, turn_z(turn) @ red.R)
    arm.go(hand_for(arm, upper, goal).raised(0.08), CLOSED, tol=0.012)
    target = hand_for(arm, upper, goal)
    arm.go(target, CLOSED, tol=0.005, steps=40, speed=0.4)
    arm.grip(CLOSED, steps=2, at=target)  # the hand comes to rest before it opens
    arm.grip(OPEN, steps=6, at=target)
    arm.go(target.raised(0.10), OPEN, tol=0.02, steps=30)


def grasp_beside(arm: Arm, angle: float, at: np.ndarray, neighbour: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a hand that grasps a cube of heading `angle`, with its fingers off a neighbour."""
    grasp = arm.fingers_along(angle, np.pi / 2)
    if _room_for_fingers(grasp, at, neighbour) >= 0.045:
        return grasp
    across = arm.fingers_along(heading(grasp[:, 1]) + np.pi / 2)  # since a finger would hit the other cube
    return max((grasp, across), key=lambda R: _room_for_fingers(R, at, neighbour))


def _room_for_fingers(R: np.ndarray, at: np.ndarray, neighbour: np.ndarray) -> float:
    """Return the distance (m) from the centre of `neighbour` to the nearer finger of an open hand `R` at `at`."""
    return min(float(np.linalg.norm((at + side * R[:, 1] - neighbour)[:2])) for side in (-0.05, 0.05))


def pick_place(arm: Arm, item: str, height: float, across: float | None) -> None:
    """Put a grocery into its compartment of the bin. tasks.py explains `height` and `across`."""
    env, body = arm.sim.env, f"{item}_main"
    compartment = np.array(env.target_bin_placements[env.object_to_id[item.lower()]])
    place = arm.sim.from_world(Pose(compartment, np.eye(3))).p
    thing = arm.sim.body(body)
    R = arm.home if across is None else arm.fingers_along(heading(thing.R[:, 0]) + across)
    arm.pick(Pose(thing.p + height * UP, R), above=0.15, lift=0.25)

    in_hand = arm.tcp.p - arm.sim.body(body).p
    over = Pose(place + in_hand + 0.22 * UP, arm.home)  # above the walls of the bins
    arm.go(over, CLOSED, tol=0.02)
    arm.go(over.raised(-0.12), CLOSED, tol=0.02, steps=40)
    arm.grip(OPEN, steps=6)
    arm.go(Pose(arm.tcp.p, arm.home).raised(0.15), OPEN, tol=0.03, steps=40)


def nut_assembly(arm: Arm, nut: str, peg: str, sides: int) -> None:
    """Put a nut onto its peg, held by the handle. The peg has `sides` equal sides: 4 if square, 0 if round."""
    sim, body = arm.sim, f"{nut}_main"
    handle = sim.site(f"{nut}_handle_site").p
    arm.go(Pose(np.array([handle[0], handle[1], arm.tcp.p[2]]), arm.home), OPEN, tol=0.02, steps=40)
    # The nuts drop at reset, so their poses are read again after the hand is above them.
    handle, ring, post = sim.site(f"{nut}_handle_site").p, sim.body(body), sim.body(peg)
    along = (handle - ring.p) * [1, 1, 0]
    along /= np.linalg.norm(handle[:2] - ring.p[:2])
    if sides:
        error = heading(post.R[:, 0]) - heading(ring.R[:, 0])
        turns = [wrap(error + side * 2 * np.pi / sides) for side in range(sides)]
    else:
        turns = np.linspace(-np.pi, np.pi, 37)
    trailing = [post.p[:2] + 0.062 * (turn_z(turn) @ along)[:2] for turn in turns]  # the hand, at the handle's length
    across = wrap(heading(along) + np.pi / 2 - arm.home_fingers, np.pi)
    grasp_turn, turn = within_reach((across, across + np.pi, across - np.pi), list(zip(turns, trailing, strict=True)))

    grasp = Pose(handle + 0.008 * along, turn_z(grasp_turn) @ arm.home)
    if abs(grasp_turn) > 1.2:  # a large turn for the wrist, so do half of it here
        arm.go(Pose(arm.tcp.p, turn_z(grasp_turn / 2) @ arm.home), OPEN, turn_tol=0.2, steps=30)
    arm.pick(grasp, above=0.08, lift=0.20, tol=0.007, steps=10)

    ring = sim.body(body)
    yaw = heading(ring.R[:, 0])
    if abs(turn) > 1.2:
        halfway = Pose(np.array([(ring.p[0] + post.p[0]) / 2, *ring.p[1:]]), turn_z(yaw + turn / 2))
        arm.go(hand_for(arm, body, halfway), CLOSED, tol=0.04, turn_tol=0.2, steps=40)
    over = Pose(post.p + 0.135 * UP, turn_z(yaw + turn))
    target = hand_for(arm, body, over)
    for look in range(3):  # the nut slips in the fingers, so measure again until it is centred
        arm.go(target, CLOSED, tol=0.004 if look else 0.02, turn_tol=0.03, steps=50)
        arm.grip(CLOSED, steps=2 if look else 0, at=target)
        ring = sim.body(body)
        off, skew = np.linalg.norm((ring.p - post.p)[:2]), wrap(heading(ring.R[:, 0]) - yaw - turn)
        if off < 0.005 and abs(skew) < 0.05:
            break
        target = hand_for(arm, body, over)
    arm.go(target.raised(-0.11), CLOSED, tol=0.006, steps=50, speed=0.3)
    arm.grip(OPEN, steps=8)
    arm.go(Pose(arm.tcp.p, arm.home).raised(0.08), OPEN, tol=0.03, steps=20)


def hand_for(arm: Arm, body: str, goal: Pose) -> Pose:
    """Return the TCP pose that moves the held `body` to `goal`, from its current pose in the hand."""
    return goal @ arm.sim.body(body).inverse() @ arm.tcp


def within_reach(grasps, goals) -> tuple[float, float]:
    """Return the turn of the hand from home for the grasp, and the turn of the held object to its goal, in rad.

    Both are chosen together: a wrist that starts at its limit cannot turn further, and the hand must stay within the
    reach of the arm (0.78 m).

    Args:
        grasps: turns of the hand from home that grasp the object.
        goals: pairs of a turn of the object and the position (2,) of the hand after it.
    """

    def cost(grasp: float, turn: float, hand: np.ndarray) -> float:
        return (
            60 * max(0.0, float(np.linalg.norm(hand)) - 0.78)
            + 5 * max(0.0, abs(grasp) - 1.7)
            + 8 * max(0.0, abs(grasp + turn) - 1.9)
            + 0.15 * abs(turn)
            + 0.10 * abs(grasp)
        )

    pairs = [(grasp, goal) for grasp in grasps for goal in goals]
    grasp, (turn, _) = min(pairs, key=lambda pair: cost(pair[0], *pair[1]))
    return grasp, turn
