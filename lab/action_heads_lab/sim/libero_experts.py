"""Scripted experts of LIBERO, where objects stand close together and a grasp must leave room for the hand.

Lengths are metres, angles radians, poses in the robot base frame, z up. As in `experts.py`, numbers were tuned by hand.
"""

from __future__ import annotations

import itertools

import numpy as np

from action_heads_lab.sim.arm import CLOSED, OPEN, PADS, Arm, wrap
from action_heads_lab.sim.frames import Pose

# The open hand in the frame of the TCP, z down, as boxes over x and y: half sizes, centre, and the z of its lower end.
HAND = ((0.032, 0.104), (0.0, 0.0), -0.038)
FINGERS = [((0.011, 0.011), (0.0, side), 0.0) for side in (-0.049, 0.049)]
ROOM = 0.004  # enough room
TILT = 0.2  # rad: a hand that is stretched out over the cabinet does not point straight down
# Grasps of an object across its thinner side: turn of the hand, shift along the object.
WAYS = [(0.0, 0.0), (0.0, 0.022), (0.0, -0.022), (0.35, 0.0), (-0.35, 0.0), (0.35, 0.015), (-0.35, -0.015)]


def into_basket(arm: Arm, item: str) -> None:
    """Solve LIBERO-Object: grasp an item across its thinner side, move it over the wall of the basket, and drop it."""
    take(arm, item, lift=0.26)
    basket, held = arm.sim.corners("basket_1"), arm.sim.corners(item)
    over = middle_of(basket) + arm.tcp.p - middle_of(held)
    over[2] = basket[:, 2].max() + 0.06 + arm.tcp.p[2] - held[:, 2].min()
    R = arm.tcp.R
    arm.go(Pose(np.array([*arm.tcp.p[:2], over[2]]), R), CLOSED, tol=0.03, steps=30)
    arm.go(Pose(over, R), CLOSED, tol=0.015, steps=90)
    arm.go(Pose(over, R).raised(-0.05), CLOSED, tol=0.02, steps=20)
    arm.grip(OPEN, steps=14)
    arm.go(arm.tcp.raised(0.06), OPEN, tol=0.03, steps=10)


def onto_plate(arm: Arm, bowl: str) -> None:
    """Solve LIBERO-Spatial: take the bowl by its rim and put it onto the middle of the plate."""
    take_by_rim(arm, bowl)
    plate = arm.sim.corners("plate_1")
    set_down(arm, bowl, np.array([*middle_of(plate)[:2], plate[:, 2].max()]))


def take(arm: Arm, item: str, lift: float) -> None:
    """Grasp an item across its thinner side, where its neighbours leave room."""
    corners = arm.sim.corners(item)
    fingers, middle = _thinner_side(corners[:, :2], arm.home_fingers)
    top, bottom = corners[:, 2].max(), corners[:, 2].min()
    low = (top + bottom) / 2 - 0.01 if top - bottom < 0.05 else bottom + 0.02
    height = max(top - 0.035, low, bottom + 0.012)
    along = np.array([-np.sin(fingers), np.cos(fingers)])
    grasps = [
        Pose(np.array([*(middle + shift * along), height]), arm.fingers_along(fingers + turn)) for turn, shift in WAYS
    ]
    rooms, others = [], around(arm.sim, item)
    for grasp in grasps:
        rooms.append(room_at(grasp, others))
        if rooms[-1] > ROOM:
            break
    arm.pick(grasps[int(np.argmax(rooms))], above=0.12, lift=lift, steps=12)


def take_by_rim(arm: Arm, bowl: str, side: float | None = None) -> None:
    """Grasp a bowl by its rim, on the side of heading `side` or else on the best one."""
    arm.insistence = 0.15
    arm.go(_rim(arm, bowl, side)[0].raised(0.12), OPEN, tol=0.03, turn_tol=TILT)
    grasp, back = _rim(arm, bowl, side)  # it may have been falling, so compute it again
    # Slowly, since an arm that goes down fast ends 2 cm too far to the front.
    arm.pick(grasp, above=0.06, lift=0.0, tol=0.006, turn_tol=TILT, steps=12, speed=0.5)
    if back.any():
        arm.go(Pose(arm.tcp.p + back, grasp.R), CLOSED, tol=0.008, turn_tol=TILT, steps=12)
    arm.go(arm.tcp.raised(0.18), CLOSED, tol=0.02, turn_tol=TILT, steps=40)


def set_down(arm: Arm, item: str, spot: np.ndarray) -> None:
    """Set down the held `item`, with its middle on `spot` (3,)."""
    R, goal = arm.tcp.R, _resting(arm, item, spot)
    arm.go(
        Pose(np.array([*arm.tcp.p[:2], max(arm.tcp.p[2], goal[2] + 0.08)]), R),
        CLOSED,
        tol=0.02,
        turn_tol=TILT,
        steps=30,
    )
    over = np.array([*goal[:2], max(goal[2] + 0.06, arm.tcp.p[2] - 0.05)])
    arm.go(Pose(over, R), CLOSED, tol=0.012, turn_tol=TILT, steps=90)
    target = Pose(_resting(arm, item, spot), R)  # again, since a bowl tilts in the fingers
    arm.go(target.raised(0.05), CLOSED, tol=0.012, turn_tol=TILT, steps=60)
    arm.go(target, CLOSED, tol=0.006, turn_tol=TILT, steps=40, speed=0.5)
    arm.grip(OPEN, steps=8)
    arm.go(arm.tcp.raised(0.08), OPEN, tol=0.03, steps=15)


def _rim(arm: Arm, bowl: str, only: float | None) -> tuple[Pose, np.ndarray]:
    """Return the grasp on the rim of a bowl, and a correction (3,) of the hand after it.

    The grasp is near home, within reach and away from neighbours. In a drawer it is further inside the bowl, where the
    closing fingers push the bowl away, which the correction undoes.
    """
    corners = arm.sim.corners(bowl)
    middle, radius = middle_of(corners), np.ptp(corners[:, :2], axis=0).mean() / 2
    best, others = None, around(arm.sim, bowl)
    turns = np.radians(range(-75, 76, 15)) if only is None else [wrap(only - arm.home_fingers, np.pi)]
    for turn in turns:
        for side, inside in itertools.product((0.0, np.pi), (0.004, 0.019, 0.029)):
            heading = arm.home_fingers + turn + side
            if only is not None and abs(wrap(heading - only)) > 0.1:
                continue
            out = (radius - inside) * np.array([np.cos(heading), np.sin(heading)])
            grasp = Pose(np.array([*(middle[:2] + out), corners[:, 2].max() - 0.018]), arm.fingers_along(heading))
            room = room_at(grasp, others)
            cost = 20 * max(0.0, 0.02 - room) + (room < 0.002) + 0.3 * abs(turn) + 5 * inside
            cost += 10 * max(0.0, float(np.linalg.norm(grasp.p[:2])) - 0.75)
            if best is None or cost < best[0]:
                best = cost, (grasp, (inside - 0.004) * np.array([np.cos(heading), np.sin(heading), 0.0]))
    assert best is not None
    return best[1]


def _resting(arm: Arm, item: str, spot: np.ndarray) -> np.ndarray:
    """Return the position of the TCP that puts the held `item` onto `spot` (3,), from its pose in the hand."""
    held = arm.sim.corners(item)
    target = spot + arm.tcp.p - middle_of(held)
    target[2] = spot[2] + 0.004 + arm.tcp.p[2] - held[:, 2].min()
    return target


def around(sim, item: str) -> list[np.ndarray]:
    """Return the corners (n, 3) of each shape on the table except those of `item`."""
    return [shape for name in sim.env.obj_body_id if name != item for shape in sim.shapes(name)]


def room_at(grasp: Pose, shapes: list[np.ndarray]) -> float:
    """Return the horizontal distance (m) between an open hand at `grasp` and all shapes, negative if they touch."""
    tcp, room = grasp.raised(-PADS), 1.0
    for shape in shapes:
        points = (shape - tcp.p) @ tcp.R
        low, high = points.min(0), points.max(0)
        for half, middle, end in (HAND, *FINGERS):
            if low[2] < end:
                gaps = np.maximum(low[:2] - middle, middle - high[:2]) - half
                room = min(room, float(gaps.max()))
    return room


def middle_of(corners: np.ndarray) -> np.ndarray:
    """Return the middle of the bounding box of corners (n, 3)."""
    return (corners.max(0) + corners.min(0)) / 2


def _thinner_side(corners: np.ndarray, home: float) -> tuple[float, np.ndarray]:
    """Return the heading across which corners (n, 2) are thinnest, preferably near home, and their middle."""
    best = None
    for turn in np.linspace(-np.pi / 2, np.pi / 2, 37)[:-1]:
        across = np.array([np.cos(home + turn), np.sin(home + turn)])
        axes = np.stack([across, [-across[1], across[0]]])
        along = corners @ axes.T
        cost = np.ptp(along[:, 0]) + 0.004 * abs(turn)
        if best is None or cost < best[0]:
            best = cost, home + turn, axes.T @ middle_of(along)
    assert best is not None
    return best[1], best[2]
