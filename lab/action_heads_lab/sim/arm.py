"""Interface of scripted experts to an arm: go, grip, pick.

Lengths are metres, angles radians, poses of the TCP in the robot base frame, z up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads_lab.sim.frames import Pose, rotation_to_6d, turn_z

MAX_STEP = 0.05  # m: largest distance of a target from the hand on each axis; the largest delta of robosuite
MAX_TURN = 0.5  # rad, the same for rotations
OPEN, CLOSED = -1.0, 1.0
PADS = 0.007  # m: distance from the middle of the finger pads to the TCP


class OutOfSteps(Exception):
    """Raised when the expert has used up its ticks."""


def wrap(angle: float, period: float = 2 * np.pi) -> float:
    """Return the angle equal to `angle` modulo `period` that is nearest to 0."""
    return (angle + period / 2) % period - period / 2


def heading(axis: np.ndarray) -> float:
    """Return the direction of `axis` (3,) in the horizontal plane, in rad from base x."""
    return np.arctan2(axis[1], axis[0])


def pointing_down(fingers: float) -> np.ndarray:
    """Return the rotation (3, 3) of a hand that points down, with its fingers (y axis) along a heading."""
    y, z = np.array([np.cos(fingers), np.sin(fingers), 0.0]), np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(y, z), y, z], axis=1)


class Arm:
    """The hand of a `Sim`, moved in small absolute steps. Each step calls `execute` with an action (10,)."""

    def __init__(self, sim, execute: Callable[[np.ndarray], object], steps: int):
        self.sim, self.execute, self.steps_left = sim, execute, steps
        self.home_fingers = heading(sim.tcp.R[:, 1])  # heading of the fingers at reset
        self.home = pointing_down(self.home_fingers)  # (3, 3)
        # Share of the remaining distance that is added to the target at every tick, since a stretched arm stops 1 cm
        # short of its target. Experts set it if they need it.
        self.insistence = 0.0

    @property
    def tcp(self) -> Pose:
        """The pose of the TCP."""
        return self.sim.tcp

    def fingers_along(self, angle: float, symmetry: float = np.pi) -> np.ndarray:
        """Return the rotation (3, 3) of a hand that points down, nearest to home.

        Its fingers are along the heading `angle`, modulo `symmetry`.
        """
        return turn_z(wrap(angle - self.home_fingers, symmetry)) @ self.home

    def toward(self, target: Pose, grip: float, speed: float = 1.0):
        """Move for one tick (50 ms) towards `target`."""
        if self.steps_left == 0:
            raise OutOfSteps
        self.steps_left -= 1
        here = self.tcp
        step = target.p - here.p
        step *= min(1.0, speed * MAX_STEP / max(np.abs(step).max(), 1e-9))
        turn = np.clip(Rotation.from_matrix(target.R @ here.R.T).as_rotvec(), -MAX_TURN, MAX_TURN)
        R = Rotation.from_rotvec(turn).as_matrix() @ here.R
        self.execute(np.concatenate([here.p + step, rotation_to_6d(R), [grip]]))

    def go(self, target: Pose, grip: float, tol=0.008, turn_tol=0.06, steps=80, speed=1.0):
        """Move until within `tol` m and `turn_tol` rad of `target`, or for at most `steps` ticks."""
        asked = target
        for _ in range(steps):
            here = self.tcp
            angle = Rotation.from_matrix(target.R @ here.R.T).magnitude()
            missing = target.p - here.p
            if np.linalg.norm(missing) < tol and angle < turn_tol:
                break
            if self.insistence and np.abs(missing).max() < MAX_STEP / 2:
                asked = Pose(asked.p + self.insistence * missing, target.R)
            self.toward(asked, grip, speed)

    def grip(self, grip: float, steps: int, at: Pose | None = None):
        """Close or open the fingers, and hold the pose `at`, by default the current pose."""
        for _ in range(steps):
            self.toward(at or self.tcp, grip)

    def pick(self, grasp: Pose, above: float, lift: float, tol=0.012, turn_tol=0.06, steps=8, speed=0.7):
        """Go open to `above` m over `grasp`, the pose of the finger pads; then down, close, and `lift` m up."""
        grasp = grasp.raised(-PADS)
        self.go(grasp.raised(above), OPEN, tol=tol, turn_tol=turn_tol)
        self.go(grasp, OPEN, tol=0.006, turn_tol=turn_tol, steps=50, speed=speed)
        self.grip(CLOSED, steps, at=grasp)
        self.go(grasp.raised(lift), CLOSED, tol=0.02, turn_tol=turn_tol, steps=40)
