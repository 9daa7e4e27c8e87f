"""The one-line form of a source of motion: `kind:where?option=value&option=value@weight`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from action_heads._util.names import nearest
from action_heads._util.paths import exists

MOST_HZ = 10_000.0  # higher than the rate of any recording
RATE_HZ = 15.0  # DROID's rate, and the default for all sources

# Options of every recording.
_RECORDED = {
    "arm": "panda, or the path of a URDF or MJCF file",
    "tip": "link of that file whose pose the actions are",
    "rate": "rate in Hz to resample to, or native",
    "base": "x,y,z of the robot's base in the world frame in m, or world to keep the world frame",
    "short": "error, or skip to leave out episodes shorter than a window",
    "bad": "error, or skip to leave out episodes with impossible rows",
}
OBSERVED = ("lerobot", "robomimic")  # formats with observations
OPTIONS = {
    "synthetic": {"tip": _RECORDED["tip"], "rate": "rate in Hz"},
    "recorded": {},
    "npz": _RECORDED | {"recorded_hz": "rate of the file in Hz"},
    "lerobot": _RECORDED
    | {
        "schema": "name of a built-in column map",
        "columns": "JSON file of a column map",
        "recorded_hz": "rate of the rows in Hz, if fps of meta/info.json is wrong",
        "revision": "branch, tag or commit on the Hub",
        "tolerance_s": "largest time between a row and its video frame in s, in Stage 2",
    },
    "robomimic": _RECORDED
    | {
        "gripper": "action or qpos",
        "recorded_hz": "rate of the file in Hz",
        "filter_key": "name of a list of demonstrations in the file's mask, such as train or valid",
    },
}
FORMS = {
    "synthetic": "synthetic:panda, synthetic:droid, synthetic:STATISTICS.json, synthetic:ARM.urdf",
    "recorded": "recorded:panda",
    "npz": "npz:FILE.npz",
    "lerobot": "lerobot:REPO_OR_FOLDER",
    "robomimic": "robomimic:FILE.hdf5",
}
RECORDED = tuple(kind for kind in OPTIONS if kind != "synthetic")
# Kinds of files by how their names end.
ENDINGS = {".npz": "npz", ".hdf5": "robomimic", ".h5": "robomimic"} | dict.fromkeys((".json", ".urdf"), "synthetic")


_WEIGHT = re.compile(r"@(\d+(\.\d+)?|\.\d+)$")


@dataclass(frozen=True)
class Spec:
    """A source as a user writes it in one line.

    Attributes:
        kind: synthetic, recorded, npz, lerobot or robomimic.
        where: file, folder, dataset on the Hub, or name of an arm.
        options: options by name, as text.
        weight: share of this source in a mixture, relative to the other weights.

    Examples:
        >>> from action_heads.data import Spec
        >>> spec = Spec.parse("lerobot:lerobot/droid_1.0.1?bad=skip@2")
        >>> spec.kind, spec.where, spec.options, spec.weight
        ('lerobot', 'lerobot/droid_1.0.1', {'bad': 'skip'}, 2.0)
    """

    kind: str
    where: str
    options: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str, kinds: Collection[str] = tuple(OPTIONS)) -> Spec:
        """Parse `kind:where?option=value@weight`; raise a ValueError if it is malformed.

        An existing file or folder whose name ends in `@2` is that one, and has no weight.

        Args:
            text: the source.
            kinds: the kinds that the error about an unknown one offers.
        """
        body, weight = text, 1.0
        match = _WEIGHT.search(text)
        if match and not exists(text.partition(":")[2]):  # A name may end like a weight.
            body, weight = text[: match.start()], float(match[1])
        head, _, tail = body.partition("?")
        kind, colon, where = head.partition(":")
        if not colon or not where or kind not in OPTIONS:
            *others, last = (FORMS[each] for each in kinds)
            mixed = ", with ?option=value&... and @weight where needed" if "synthetic" in kinds else ""
            raise ValueError(
                f"unknown data source {text!r}{_meant(text, head, kinds)}; choose from "
                f"{', '.join(others)} or {last}{mixed}."
            )
        if tail and re.search(r"@[\d.]+$", where) and not match and not exists(where):
            raise ValueError(f"{text!r}: the weight must come last, after the options.")
        if not math.isfinite(weight):
            raise ValueError(f"{text!r} has an infinite weight. Give the source a finite weight, as in {head}@2.")
        if weight <= 0:
            raise ValueError(f"{text!r} has weight 0. Leave the source out, or give it a weight as in {head}@2.")
        options = {}
        for pair in filter(None, tail.split("&")):
            key, equals, value = pair.partition("=")
            if not equals or not value or key not in OPTIONS[kind]:
                known = "; ".join(f"{name} ({what})" for name, what in OPTIONS[kind].items()) or "none"
                raise ValueError(f"{text!r}: {pair!r} is not an option of {kind}; its options are {known}.")
            if key in options:
                raise ValueError(f"{text!r}: {key} is given twice. Give it once.")
            options[key] = value
        for key in ("short", "bad"):
            if options.get(key, "error") not in ("error", "skip"):
                raise ValueError(f"{text!r}: {key} must be error or skip, but is {options[key]!r}.")
        return cls(kind, where, options, weight)

    def __str__(self) -> str:
        options = "&".join(f"{key}={value}" for key, value in self.options.items())
        weight = "" if self.weight == 1 and not _WEIGHT.search(self.where) else f"@{self.weight:g}"
        return f"{self.kind}:{self.where}" + (f"?{options}" if options else "") + weight

    def number(self, key: str, default: float, most: float = MOST_HZ) -> float:
        """Return an option as a positive number of at most `most`, or the default if it is not given."""
        if key not in self.options:
            return default
        try:
            value = float(self.options[key])
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise ValueError(
                f"{self}: {key} must be a positive number of at most {most:g}, but is {self.options[key]!r}."
            )
        return value


def _meant(text: str, head: str, kinds: Collection[str]) -> str:
    """Return a suggestion for a source whose part before options and weight has no known kind; "" if there is none."""
    kind, colon, _ = head.partition(":")
    if colon:
        return nearest(kind, kinds)
    found = ENDINGS.get(Path(head).suffix, "lerobot" if "/" in head or exists(head) else "")
    return f" (did you mean '{found}:{text}'?)" if found in kinds else ""
