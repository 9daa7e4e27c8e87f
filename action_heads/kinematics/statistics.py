"""Statistics of recorded motion, and postures that have them: they shape synthetic motion to a corpus without its data.

Axes: `n` postures, `j` joints, `f` features, 9 numbers of a pose (position, first two rows of the rotation matrix).
Units: rad, rad/s, m (m and m/s for a sliding joint).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from action_heads._util.paths import path_of
from action_heads.io import strict_json
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.synthetic import Shape, pose_numbers, synthetic_chunks
from action_heads.kinematics.trajectories import Trajectories

VERSION = 1
BUNDLED = {"droid": "data/droid_statistics.json"}
CANDIDATES, POOL = 2**17, 2**15  # postures that are weighed, and those that are drawn from them by weight
WIDE, WIDENED = 0.25, 2.0  # share of the candidates with a larger deviation, since recordings have longer tails
MOST_ROWS = 200_000  # rows of a recording whose poses are computed
ROUNDS = 50  # of Newton's method, at most
RIDGE = 1e-3  # keeps the weights finite where no distribution has all moments

_PER_JOINT = ("mean", "std", "min", "max", "p01", "p99", "velocity_std")
_PER_POSE = ("pose_mean", "pose_std")


@dataclass(frozen=True)
class MotionStatistics:
    """Statistics of the motion of one arm: postures, speed, poses and use of the gripper. A few hundred numbers.

    Attributes:
        arm: `panda`, or the path of the arm's URDF or MJCF file, which in a file begins at the folder of that file.
        mean, std, min, max: of the joints, (j,) each.
        p01, p99: quantiles of the joints, (j,).
        velocity_std: standard deviation of the joints' velocities, (j,).
        closed: share of the time in which the gripper is closed.
        correlation: of the joints, (j, j), if known.
        pose_mean, pose_std: of the pose of `frame`, (9,), if known.
        frame: frame of these poses, which is the tip of an arm from a file; the arm's own if none is named.
        about: what the statistics are of.
        credit: whose the recordings are, and their licence.
    """

    arm: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    p01: tuple[float, ...]
    p99: tuple[float, ...]
    velocity_std: tuple[float, ...]
    closed: float
    correlation: tuple[tuple[float, ...], ...] | None = None
    pose_mean: tuple[float, ...] | None = None
    pose_std: tuple[float, ...] | None = None
    frame: str | None = None
    about: str = ""
    credit: str = ""

    def __post_init__(self) -> None:
        joints = len(self.mean)
        for name in (*_PER_JOINT, *_PER_POSE):
            values, width = getattr(self, name), 9 if name in _PER_POSE else joints
            if values is not None and (len(values) != width or not np.isfinite(values).all()):
                raise ValueError(f"{name} has {len(values)} values, expected {width} finite numbers: {values}")
        for name in ("std", "velocity_std"):
            if min(getattr(self, name)) < 0:
                raise ValueError(f"{name} has a negative deviation: {getattr(self, name)}")
        if any(low > high for low, high in zip(self.min, self.max, strict=True)):
            raise ValueError(f"min is above max: {self.min} and {self.max}")
        if (self.pose_mean is None) != (self.pose_std is None):
            raise ValueError("give both pose_mean and pose_std, or neither")
        if not 0 <= self.closed <= 1:
            raise ValueError(f"closed is a share between 0 and 1, not {self.closed}")
        if self.correlation is not None and np.shape(self.correlation) != (joints, joints):
            raise ValueError(f"correlation has shape {np.shape(self.correlation)}, expected {(joints, joints)}")

    @classmethod
    def load(cls, name: str | Path) -> MotionStatistics:
        """Read bundled statistics by name, such as `droid`, or a file that `action-heads statistics` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no statistics, or impossible ones.
        """
        if name in BUNDLED:
            path = Path(__file__).parent / BUNDLED[str(name)]
        elif not (path := path_of(name)).is_file():
            raise FileNotFoundError(
                f"there is no file {name}. Name bundled statistics ({', '.join(BUNDLED)}), or write a file with "
                "`action-heads statistics --data SOURCE --out FILE.json`."
            )
        try:
            values = strict_json.read(path, numbers=False)  # They are checked by `__post_init__`.
            if not isinstance(values, Mapping):
                raise TypeError("it is not a JSON object")
            if (version := values.get("version")) != VERSION:
                raise ValueError(f"its version is {version}, expected {VERSION}")
            return cls(**{key: _tuples(value) for key, value in values.items() if key != "version"})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} holds no statistics of motion: {error}. Write it with `action-heads statistics`."
            ) from error

    def to_json(self) -> str:
        """Return the text of a file that `load` reads."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps({"version": VERSION, **given}, indent=1) + "\n"

    @cached_property
    def hash(self) -> str:
        """The hash of all values, 16 hex digits, for a head's record."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @classmethod
    def of(cls, trajectories: Trajectories, about: str = "", credit: str = "") -> MotionStatistics:
        """Measure the statistics of recorded motion. Their arm and frame are those of the trajectories.

        Raises:
            ValueError: the joints of a known arm were not recorded.
        """
        table = trajectories
        if table.joints is None or table.arm is None:
            raise ValueError(
                "statistics of motion need the joints of a known arm, but the recording only has poses. Name the arm, "
                "as in ?arm=ARM.urdf, or the columns of its joints."
            )
        joints, gripper = table.joints.numpy(), table.gripper.numpy()
        if table.lengths.sum() < len(joints):  # the table also holds episodes that were not chosen
            rows = np.concatenate([np.arange(a, a + n) for a, n in zip(table.starts, table.lengths, strict=True)])
            joints, gripper = joints[rows], gripper[rows]
        low, high = (np.quantile(joints, q, axis=0) for q in (0.01, 0.99))
        inner = np.ones(max(len(joints) - 1, 0), dtype=bool)  # steps that stay within an episode
        inner[np.cumsum(table.lengths)[:-1] - 1] = False
        velocity = np.diff(joints, axis=0)[inner] * table.rate_hz
        some = np.ascontiguousarray(joints[:: max(1, len(joints) // MOST_ROWS)])
        poses = pose_numbers(torch.from_numpy(some), table.arm.frame, table.arm).double()
        spread = joints.std(0, dtype=np.float64)
        # A joint that never moves has no correlation; noise in its place correlates with nothing.
        still = np.random.default_rng(0).normal(size=some.shape) * (spread < 1e-6)
        return cls(
            arm=table.arm.name if table.arm.file is None else str(table.arm.file),
            mean=_tuples(joints.mean(0, dtype=np.float64)),
            std=_tuples(spread),
            min=_tuples(joints.min(0)),
            max=_tuples(joints.max(0)),
            p01=_tuples(low),
            p99=_tuples(high),
            velocity_std=_tuples(velocity.std(0, dtype=np.float64)) if len(velocity) else (0.0,) * joints.shape[1],
            closed=float((gripper > 0).mean()),
            # NumPy returns a scalar for one joint, and NaN for one posture.
            correlation=_tuples(np.atleast_2d(np.corrcoef(some + still, rowvar=False))) if len(some) > 1 else None,
            pose_mean=_tuples(poses.mean(0)),
            pose_std=_tuples(poses.std(0, correction=0)),
            frame=table.arm.frame,
            about=about,
            credit=credit,
        )


@lru_cache(maxsize=4)
def postures(statistics: MotionStatistics, arm: Arm) -> Tensor:
    """Draw POOL postures (n, j) with the moments of the statistics, as far as one distribution can have them all.

    Candidates are drawn with the joints' means, deviations and correlations. They are then weighted by
    exp(sum_f lambda_f * feature_f), the distribution of maximum entropy with the moments of joints and poses and the
    tails of the joints (Jaynes 1957); lambda minimises a convex function, by Newton's method.
    """
    if len(statistics.mean) != len(arm):
        raise ValueError(
            f"the statistics are of {len(statistics.mean)} joints, but {arm.name} has {len(arm)}. Write the file again "
            "with `action-heads statistics`, which records the arm"
        )
    generator = torch.Generator().manual_seed(0)
    s = {key: torch.tensor(getattr(statistics, key), dtype=torch.float64) for key in _PER_JOINT}
    lowest = torch.maximum(s["min"], arm.lower.double())
    highest = torch.minimum(s["max"], arm.upper.double())
    drawn = torch.randn(CANDIDATES, len(arm), generator=generator, dtype=torch.float64)
    if statistics.correlation is not None:
        correlation = torch.tensor(statistics.correlation, dtype=torch.float64)
        drawn = drawn @ torch.linalg.cholesky(correlation + 1e-6 * torch.eye(len(arm), dtype=torch.float64)).mT
    wide = torch.rand(CANDIDATES, 1, generator=generator, dtype=torch.float64) < WIDE
    joints = s["mean"] + s["std"] * drawn * torch.where(wide, WIDENED, 1.0)
    inside = ((joints >= lowest) & (joints <= highest)) | (s["std"] == 0)
    joints = joints[inside.all(-1)]
    if not len(joints):
        raise ValueError(f"no posture with these statistics is within the limits of {arm.name}")
    features = [(joints - s["mean"]) / s["std"].clamp(min=1e-6)]
    if statistics.pose_mean is not None:
        mean, std = (torch.tensor(getattr(statistics, key), dtype=torch.float64) for key in _PER_POSE)
        features.append((pose_numbers(joints, statistics.frame or arm.frame, arm) - mean) / std.clamp(min=1e-3))
    first = torch.cat(features, dim=-1)
    tails = 10 * torch.cat((joints < s["p01"], joints > s["p99"]), dim=-1).double()  # of the others' size
    wanted = [torch.full((count,), value) for count, value in ((first.shape[1], 0.0), (first.shape[1], 1.0))]
    wanted = torch.cat((*wanted, torch.full((tails.shape[1],), 0.1))).double()
    weights = _weights(torch.cat((first, first**2, tails), dim=-1), wanted)
    chosen = torch.multinomial(weights, POOL, replacement=True, generator=generator)
    return joints[chosen].float()


@lru_cache(maxsize=4)
def shape_of(statistics: MotionStatistics, arm: Arm) -> Shape:
    """Return the shape of synthetic motion with these statistics: postures, speed and use of the gripper.

    The speed is one factor for all joints, by which the root mean square of their velocities is the recorded one.
    """
    shape = Shape(postures(statistics, arm), 1.0, statistics.closed)
    wanted = torch.tensor(statistics.velocity_std).square().mean().sqrt().item()
    for _ in range(3):  # the arm's own limits hold some segments back, so one step is not enough
        joints, _ = synthetic_chunks(4096, 16, 15.0, torch.Generator().manual_seed(0), arm=arm, shape=shape)
        found = (joints.diff(dim=1) * 15).square().mean().sqrt().item()
        shape = shape._replace(pace=shape.pace * min(max(wanted / max(found, 1e-9), 0.1), 10.0))
    return shape


def _weights(features: Tensor, wanted: Tensor) -> Tensor:
    """Return weights (n,) of maximum entropy under which features (n, f) have means `wanted` (f,), by damped Newton."""
    features = features - wanted
    dual = torch.zeros(features.shape[1], dtype=features.dtype)

    def value(at: Tensor) -> Tensor:
        return torch.logsumexp(features @ at, 0) + 0.5 * RIDGE * at @ at

    for _ in range(ROUNDS):
        weights = torch.softmax(features @ dual, 0)
        mean = weights @ features
        slope = mean + RIDGE * dual
        if slope.abs().max() < 1e-4:
            break
        curvature = (features * weights[:, None]).mT @ features - mean[:, None] * mean
        step = torch.linalg.solve(curvature + RIDGE * torch.eye(len(mean), dtype=mean.dtype), slope)
        length, now = 1.0, value(dual)
        while value(dual - length * step) > now - 1e-4 * length * (slope @ step) and length > 1e-6:
            length /= 2
        dual = dual - length * step
    return torch.softmax(features @ dual, 0)


def _tuples(value: Any) -> Any:
    """Return arrays and lists, of any depth, as tuples of floats, and anything else as it is."""
    if isinstance(value, (np.ndarray, Tensor)):
        value = value.tolist()
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
