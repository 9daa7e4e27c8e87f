"""A data source in one line: `kind:where?option=value&option=value@weight`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_HZ = 10_000.0  # steps a second: more than any robot is recorded at
RATE_HZ = 15.0  # DROID's, and of everything unless an option says otherwise

# What every recording may be told, whatever its format.
_RECORDED = {
    "arm": "panda, or the path of a URDF or MJCF file",
    "tip": "the link of that file whose pose the actions are",
    "rate": "steps a second to resample to, or native",
    "base": "x,y,z of the robot's base in the world in m, or world to leave poses in the world frame",
    "short": "error or skip: episodes shorter than a window",
    "bad": "error or skip: episodes with rows that cannot be",
}
OPTIONS = {
    "synthetic": {"tip": _RECORDED["tip"], "rate": "steps a second"},
    "recorded": {},
    "npz": _RECORDED | {"recorded_hz": "steps a second of the file"},
    "lerobot": _RECORDED
    | {
        "schema": "the name of a column map",
        "columns": "a JSON file with one",
        "revision": "branch, tag or commit",
        "tolerance_s": "seconds that a video's frame may be off its row; of Stage 2",
    },
    "robomimic": _RECORDED
    | {
        "gripper": "action or qpos",
        "recorded_hz": "steps a second of the file",
        "filter_key": "the name of a list of demonstrations in the file's mask, such as train or valid",
    },
}
FORMS = (
    "synthetic:panda, synthetic:ARM.urdf, recorded:panda, npz:FILE.npz, lerobot:REPO_OR_FOLDER, robomimic:FILE.hdf5, "
    "each with ?option=value and @weight if need be"
)


@dataclass(frozen=True)
class Spec:
    """One source as a user writes it."""

    kind: str
    where: str
    options: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read `kind:where?option=value@weight`; whatever is wrong with it is said at once."""
        body, weight = text, 1.0
        if match := re.search(r"@(\d+(\.\d+)?|\.\d+)$", text):
            body, weight = text[: match.start()], float(match[1])
        head, _, tail = body.partition("?")
        kind, colon, where = head.partition(":")
        if not colon or not where or kind not in OPTIONS:
            raise ValueError(f"unknown data source {text!r}; choose from {FORMS}")
        if tail and re.search(r"@[\d.]+$", where):
            raise ValueError(f"{text!r}: the weight comes last, after the options")
        if not math.isfinite(weight):
            raise ValueError(f"{text!r} has a weight that is no number: give the source a share as in {head}@2")
        if weight <= 0:
            raise ValueError(f"{text!r} has weight 0: leave the source out, or give it a share as in {head}@2")
        options = {}
        for pair in filter(None, tail.split("&")):
            key, equals, value = pair.partition("=")
            if not equals or not value or key not in OPTIONS[kind]:
                known = "; ".join(f"{name} ({what})" for name, what in OPTIONS[kind].items()) or "none"
                raise ValueError(f"{text!r}: {pair!r} is no option of {kind}; its options are {known}")
            if key in options:
                raise ValueError(f"{text!r}: {key} is given twice; give it once")
            options[key] = value
        for key in ("short", "bad"):
            if options.get(key, "error") not in ("error", "skip"):
                raise ValueError(f"{text!r}: {key} is error or skip, not {options[key]!r}")
        return cls(kind, where, options, weight)

    def __str__(self) -> str:
        options = "&".join(f"{key}={value}" for key, value in self.options.items())
        weight = "" if self.weight == 1 else f"@{self.weight:g}"
        return f"{self.kind}:{self.where}" + (f"?{options}" if options else "") + weight

    def number(self, key: str, default: float, most: float = MOST_HZ) -> float:
        """Return an option that is a positive number, or its default where it is not given."""
        if key not in self.options:
            return default
        try:
            value = float(self.options[key])
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise ValueError(
                f"{self}: {key} must be a positive number, not {self.options[key]!r}; the largest is {most:g}"
            )
        return value
