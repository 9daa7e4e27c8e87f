"""Read from the names of a dataset's columns which are joints, grippers or coordinates."""

from __future__ import annotations

import re
from collections.abc import Sequence

# These patterns search the words of a name, in small letters and with spaces between them.
SURELY_JOINT = re.compile(r"joint|motor")
JOINT = re.compile(r"waist|shoulder|elbow|forearm|wrist")
PLACE = re.compile(r"\b[td]?[xyz]\b")  # a coordinate, such as of a wrist's pose
COORDINATE = re.compile(
    rf"{PLACE.pattern}|\b(?:[rqvw][xyz]|q?w|xyz|rpy|r[1-3]{{2}}|[69]d|d6|(?:rot|ortho|r)[69]d?|rotvec|axisangle)\b|"
    r"\b(?:quat|euler)"
)
NUMBER_OF_PLACE = re.compile(r"\b(?:pos|position|trans|translation) ?[0-9]")  # of several joints too
NUMBER_OF_ROTATION = re.compile(r"\b(?:rot|rotation|ori|orient|orientation) ?[0-9]")
ANGLE = re.compile(r"roll|pitch|yaw")  # of a joint too, such as wrist_roll, but not of a gripper
# The words that leave open whose angle it is: a joint's has the name of a part of the arm besides.
OPEN = re.compile(
    r"[0-9]+|\w*(?:roll|pitch|yaw)|angles?|pos|position|delta|action|state|target|left|right|[lr]|robot[0-9]*|arm[0-9]*|"
    r"ee|eef|tcp|end|effector|endeffector|hand|tool|tip|flange|pose"
)


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
    return "pose_6d" if width == 10 and (numbered or all(PLACE.search(words_of(name)) for name in names[:3])) else None


def kinds_of(names: Sequence[str]) -> list[str]:
    """Return "g" for the name of a gripper, "j" for that of a joint, and "?" for any other."""

    def kind(name: str) -> str:
        words = words_of(name)
        if COORDINATE.search(words):
            return "?"
        if "gripper" in words:
            return "?" if ANGLE.search(words) or NUMBER_OF_ROTATION.search(words) else "g"
        if SURELY_JOINT.search(words):
            return "j"
        if NUMBER_OF_PLACE.search(words) or NUMBER_OF_ROTATION.search(words):
            return "?"
        if ANGLE.search(words) and all(map(OPEN.fullmatch, words.split())):
            return "?"
        # LeRobot's names of joints end in ".pos".
        return "j" if JOINT.search(words) or name.lower().endswith(".pos") else "?"

    return [kind(name) for name in names]


def words_of(name: str) -> str:
    """Return the words of a name in small letters: "wristRoll.pos" gives "wrist roll pos"."""
    return " ".join(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()))


def listed(names: Sequence[str] | None) -> str:
    """Return the names for the end of a message, or nothing without any."""
    return f" ({', '.join(names)})" if names else ""
