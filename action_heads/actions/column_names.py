"""What the names of a dataset's columns say of a layout: which are joints, grippers or coordinates."""

from __future__ import annotations

import re
from collections.abc import Sequence

JOINT = re.compile(r"joint|motor|\.pos$|waist|shoulder|elbow|forearm|wrist", re.IGNORECASE)
AXIS = re.compile(r"(?:^|[^a-z0-9])(?:r?[xyz]|q[xyzw])$", re.IGNORECASE)  # a coordinate, such as of a wrist's pose
ANGLE = re.compile(r"roll|pitch|yaw", re.IGNORECASE)  # of a joint too, such as wrist_roll, but not of a gripper


def guess_layout(width: int, names: Sequence[str] | None) -> str | None:
    """Return an unambiguous layout, or None: all names are of joints and grippers, or there are 10 columns.

    Ten columns are a pose, unless their names differ in more than a number and the first three are no coordinates.
    """
    if names is None or len(names) != width:
        return "pose_6d" if width == 10 else None
    if "?" not in (kinds := kinds_of(names)):
        runs = re.findall(r"j+|g", "".join(kinds))
        return " ".join("gripper" if run == "g" else f"joint:{len(run)}" for run in runs)
    numbered = len({re.sub(r"\d+", "", name) for name in names}) == 1
    return "pose_6d" if width == 10 and (numbered or all(map(AXIS.search, names[:3]))) else None


def kinds_of(names: Sequence[str]) -> list[str]:
    """Return "g" for the name of a gripper, "j" for that of a joint, and "?" for any other."""

    def kind(name: str) -> str:
        if AXIS.search(name):
            return "?"
        if "gripper" in name.lower():
            return "?" if ANGLE.search(name) else "g"
        return "j" if JOINT.search(name) else "?"

    return [kind(name) for name in names]


def listed(names: Sequence[str] | None) -> str:
    """Return the names for the end of a message, or nothing without any."""
    return f" ({', '.join(names)})" if names else ""
