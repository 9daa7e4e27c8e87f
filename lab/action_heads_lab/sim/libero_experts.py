"""The scripted experts of LIBERO's tables, where things stand close: a grasp is chosen for the room it leaves the hand.

Lengths are metres, angles radians, poses in the robot base frame, z up. As in `experts.py`, numbers were tuned by
watching the failures.
"""

from __future__ import annotations

import itertools

import numpy as np

from action_heads_lab.sim.arm import CLOSED, OPEN, PADS, Arm
from action_heads_lab.sim.frames import Pose

# The open hand in the frame of the TCP, z down, as boxes over x and y: half sizes, centre, and the z of its lower end.
HAND = ((0.032, 0.104), (0.0, 0.0), -0.038)
FINGERS = [((0.011, 0.011), (0.0, side), 0.0) for side in (-0.049, 0.049)]
ROOM = 0.004  # what is enough
TILT = 0.2  # rad: stretched out over the cabinet, the hand does not point straight down
# Ways to take a thing across its thinner side: turn of the hand, shift along the thing.
WAYS = [(0.0, 0.0), (0.0, 0.022), (0.0, -0.022), (0.35, 0.0), (-0.35, 0.0), (0.35, 0.015), (-0.35, -0.015)]


def into_basket(arm: Arm, item: str) -> None:
    """LIBERO-Object: whatever stands on the floor, grasped across its thinner side, over the basket's wall and down."""
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
    """LIBERO-Spatial: the bowl by its rim, wherever it stands, onto the middle of the plate."""
    take_by_rim(arm, bowl)
    plate = arm.sim.corners("plate_1")
    set_down(arm, bowl, np.array([*middle_of(plate)[:2], plate[:, 2].max()]))


def take(arm: Arm, item: str, lift: float) -> None:
    """Across its thinner side, where neighbours leave room."""
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


def take_by_rim(arm: Arm, bowl: str) -> None:
    """A bowl, wherever it stands."""
    arm.insistence = 0.15
    arm.go(_rim(arm, bowl)[0].raised(0.12), OPEN, tol=0.03, turn_tol=TILT)
    grasp, back = _rim(arm, bowl)  # it may have been falling: look again
    # Slowly, since an arm that goes down fast is 2 cm off to the front.
    arm.pick(grasp, above=0.06, lift=0.0, tol=0.006, turn_tol=TILT, steps=12, speed=0.5)
    if back.any():
        arm.go(Pose(arm.tcp.p + back, grasp.R), CLOSED, tol=0.008, turn_tol=TILT, steps=12)
    arm.go(arm.tcp.raised(0.18), CLOSED, tol=0.02, turn_tol=TILT, steps=40)


def set_down(arm: Arm, item: str, spot: np.ndarray) -> None:
    """The held `item`, as upright as it is held, with its middle on `spot` (3,)."""
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
    target = Pose(_resting(arm, item, spot), R)  # look again: a bowl tilts in the fingers
    arm.go(target.raised(0.05), CLOSED, tol=0.012, turn_tol=TILT, steps=60)
    arm.go(target, CLOSED, tol=0.006, turn_tol=TILT, steps=40, speed=0.5)
    arm.grip(OPEN, steps=8)
    arm.go(arm.tcp.raised(0.08), OPEN, tol=0.03, steps=15)


def _rim(arm: Arm, bowl: str) -> tuple[Pose, np.ndarray]:
    """Where on the rim to take it: near home, within reach, away from neighbours; in a drawer, further inside.

    There the closing fingers push the bowl away, perhaps under the lid: also the way (3,) that undoes that.
    """
    corners = arm.sim.corners(bowl)
    middle, radius = middle_of(corners), np.ptp(corners[:, :2], axis=0).mean() / 2
    best, others = None, around(arm.sim, bowl)
    for turn in np.radians(range(-75, 76, 15)):
        for side, inside in itertools.product((0.0, np.pi), (0.004, 0.019, 0.029)):
            heading = arm.home_fingers + turn + side
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
    """Where the TCP is when the held `item`, as it sits in the hand now, is over `spot` (3,), and on it."""
    held = arm.sim.corners(item)
    target = spot + arm.tcp.p - middle_of(held)
    target[2] = spot[2] + 0.004 + arm.tcp.p[2] - held[:, 2].min()
    return target


def around(sim, item: str) -> list[np.ndarray]:
    """(n, 3) corners of each shape of everything on the table but `item`."""
    return [shape for name in sim.env.obj_body_id if name != item for shape in sim.shapes(name)]


def room_at(grasp: Pose, shapes: list[np.ndarray]) -> float:
    """How far (m), sideways, an open hand that comes down to `grasp` stays from all shapes; below 0 it touches."""
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
    """Of the box around corners (n, 3), along the base axes."""
    return (corners.max(0) + corners.min(0)) / 2


def _thinner_side(corners: np.ndarray, home: float) -> tuple[float, np.ndarray]:
    """Corners (n, 2) from above -> heading across which they are thinnest, if that is near home, and their middle."""
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
