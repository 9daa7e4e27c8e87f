"""The built-in column maps, and which of them fits a recording.

They follow descriptions of the datasets: `droid` LeRobot's port, `mimicgen` and `libero_dae` the paper's code, `libero`
our reference notes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from action_heads.data.schema import Schema, listed

_ROBOSUITE: dict[str, Any] = {"gripper_open": -1.0, "gripper_closed": 1.0, "frame": "robosuite_eef", "world": True}

SCHEMAS = {
    schema.name: schema
    for schema in (
        Schema(
            "droid",
            joints="observation.state.joint_position",
            position="observation.state.cartesian_position[0:3]",
            rotation="observation.state.cartesian_position[3:6]",
            rotation_form="euler_xyz",
            # The command, as in the paper. The state of a hand that grasps a wide object would read as open.
            gripper="action.gripper_position",
            frame="flange",
            fr3=True,
        ),
        Schema(
            "mimicgen",
            joints="observation.joint_position",
            position="observation.eePose[0:3]",
            rotation="observation.eePose[3:7]",
            gripper="actions[-1:]",
            **_ROBOSUITE,
        ),
        # The format of `action-heads record`.
        Schema(
            "robosuite",
            joints="observation.joint_position",
            position="observation.eef[0:3]",
            rotation="observation.eef[3:9]",
            rotation_form="6d",
            gripper="action[9:10]",
            gripper_open=-1.0,
            gripper_closed=1.0,
        ),
        # OpenVLA and LeRobot publish eight numbers: position, rotation vector, two fingers.
        Schema(
            "libero",
            position="observation.state[0:3]",
            rotation="observation.state[3:6]",
            rotation_form="axis_angle",
            gripper="action[6:7]",
            **_ROBOSUITE,
        ),
        # The paper publishes eight numbers too, but others: position, quaternion, one finger.
        Schema(
            "libero_dae",
            position="observation.state[0:3]",
            rotation="observation.state[3:7]",
            gripper="actions[6:7]",
            **_ROBOSUITE,
        ),
    )
}

# The widths of the datasets' columns. Almost any dataset has a part such as `observation.state[0:3]`, so a schema
# that was not requested by name is only chosen if these widths match exactly.
WIDTHS = {
    "droid": {
        "observation.state.joint_position": 7,
        "observation.state.cartesian_position": 6,
        "action.gripper_position": 1,
    },
    "mimicgen": {"observation.joint_position": 7, "observation.eePose": 9, "actions": 7},
    "robosuite": {"observation.joint_position": 7, "observation.eef": 9, "action": 10},
    "libero": {"observation.state": 8, "action": 7},
    "libero_dae": {"observation.state": 8, "actions": 7},
}


# LIBERO in openpi's form has the same values in columns without a prefix.
_OPENPI = replace(SCHEMAS["libero"], position="state[0:3]", rotation="state[3:6]", gripper="actions[6:7]")
_KNOWN = [(schema, WIDTHS[name]) for name, schema in SCHEMAS.items()] + [(_OPENPI, {"state": 8, "actions": 7})]


def choose(widths: Mapping[str, int], name: str | None, source: str) -> Schema:
    """Return the built-in schema of that name, or, without a name, the one that fits the columns.

    Args:
        widths: the recording's numeric columns and their widths.
        name: name of a schema; None to recognise the dataset.
        source: the recording, for messages.

    Raises:
        ValueError: the name is unknown, or columns are missing or too narrow.
    """
    if name is not None and name not in SCHEMAS:
        raise ValueError(
            f"{source}: unknown schema {name!r}; choose from {', '.join(SCHEMAS)}, or give ?columns=MAP.json."
        )
    candidates = [(schema, declared) for schema, declared in _KNOWN if name in (None, schema.name)]
    for schema, declared in candidates:
        as_declared = all(widths.get(column) == width for column, width in declared.items())
        if not schema.lacks(widths) and (name or as_declared):
            return schema

    def differs(schema: Schema, declared: Mapping[str, int]) -> list[str]:
        return schema.lacks(widths) or [
            f"{column} with {width} values" for column, width in declared.items() if widths.get(column) != width
        ]

    # Among schemas that lack the same share, prefer the one with more declared columns.
    nearest, declared = min(candidates, key=lambda one: (len(differs(*one)) / len(one[0].columns()), -len(one[1])))
    raise ValueError(
        f"{source}: no built-in column map fits. The columns (with their widths) are {listed(widths)}. For the nearest "
        f"map, {nearest.name}, the recording lacks {', '.join(differs(nearest, declared))}. Write a column map of your "
        "own and pass it as ?columns=MAP.json; see docs/guides/recordings.md."
    )
