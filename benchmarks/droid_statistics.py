"""Convert DROID's published statistics to the package's file, action_heads/kinematics/data/droid_statistics.json.

    python benchmarks/droid_statistics.py PUBLISHED.json OUT.json

The published rotation is extrinsic xyz Euler angles, of which the roll wraps at pi. With roll = pi + d and
E[roll^2] = pi^2 - 2 pi E|d| + E[d^2], its mean and deviation give E|d| = 0.22, so d has a deviation of 0.28 rad.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import tyro

ROLL = 0.28  # rad, deviation of the roll about pi
DRAWS = 1_000_000


def main(published: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path]) -> None:
    """Write the statistics."""
    s = json.loads(published.read_text(encoding="utf-8"))
    joints, pose = s["observation.state.joint_position"], s["observation.state.cartesian_position"]
    quantiles = s["quantiles.joints"]["proprio"]
    rotation = six_numbers(pose["mean"][4:], pose["std"][4:])
    values = {
        "version": 1,
        "arm": "panda",
        **{key: joints[key] for key in ("mean", "std", "min", "max")},
        "p01": quantiles["p01"][:7],
        "p99": quantiles["p99"][:7],
        "velocity_std": s["action.joint_velocity"]["std"],
        "closed": s["observation.state.gripper_position"]["mean"][0],
        "pose_mean": pose["mean"][:3] + rotation.mean(0).round(4).tolist(),
        "pose_std": pose["std"][:3] + rotation.std(0).round(4).tolist(),
        "frame": "flange",
        "about": "DROID 1.0.1, 27,618,651 frames, 15 Hz; the quantiles over 27,044,326 transitions. No correlation of "
        "the joints was published. Made by benchmarks/droid_statistics.py.",
        "credit": s["credit"],
    }
    rounded = {key: [round(x, 5) for x in value] if isinstance(value, list) else value for key, value in values.items()}
    rounded["closed"] = round(values["closed"], 5)
    out.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def six_numbers(mean: list[float], std: list[float]) -> np.ndarray:
    """Pitch and yaw (2,) -> first two rows of the rotation matrices (n, 6) of independent normal angles."""
    normal = np.random.default_rng(0).standard_normal
    roll = math.pi + ROLL * normal(DRAWS)
    pitch, yaw = (m + s * normal(DRAWS) for m, s in zip(mean, std, strict=True))
    cr, sr, cp, sp, cy, sy = (f(angle) for angle in (roll, pitch, yaw) for f in (np.cos, np.sin))
    rows = (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, sy * cp, sy * sp * sr + cy * cr)
    return np.stack((*rows, sy * sp * cr - cy * sr), axis=-1)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
