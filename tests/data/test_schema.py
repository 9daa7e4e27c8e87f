"""Column maps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from action_heads.data.known_schemas import SCHEMAS, choose
from action_heads.data.schema import Column, Schema, check

WIDTHS = {
    "droid": {
        "observation.state": 8,
        "observation.state.joint_position": 7,
        "observation.state.cartesian_position": 6,
        "observation.state.gripper_position": 1,
        "action.gripper_position": 1,
        "action": 8,
    },
    "mimicgen": {"observation.joint_position": 7, "observation.eePose": 9, "actions": 7},
    "libero": {"observation.state": 8, "action": 7},
    "libero_dae": {"observation.state": 8, "actions": 7},
    "robosuite": {
        "observation.state": 23,
        "observation.joint_position": 7,
        "observation.eef": 9,
        "observation.gripper": 2,
        "action": 10,
        "action.delta": 7,
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_knows_its_dataset_and_no_other(name):
    assert choose(WIDTHS[name], None, "here") is SCHEMAS[name]


def test_a_dataset_that_merely_has_wide_columns_is_not_taken_for_libero():
    with pytest.raises(ValueError, match="no built-in column map fits"):
        choose({"observation.state": 14, "action": 14}, None, "x")
    assert choose({"observation.state": 14, "action": 14}, "libero", "x") is SCHEMAS["libero"]  # as asked


@pytest.mark.parametrize("name", SCHEMAS)
def test_round_trips_through_json(name, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(SCHEMAS[name].to_dict()))
    assert Schema.from_json(tmp_path / "map.json") == SCHEMAS[name]


@pytest.mark.parametrize("text", ["x[0:7]", "x[6:7]", "x[6]", "x[-1:]", "x[-1]", "x[:3]", "x[2:]", "x", "x[-3:-1]"])
def test_parts_are_python_s(text):
    column, row = Column.parse(text), np.arange(8)
    assert column.name == "x"
    expected = np.atleast_1d(eval(text, {"x": row}))
    assert row[column.part].tolist() == expected.tolist()
    assert column.width(8) == len(expected)


def test_a_part_beyond_the_column_is_missing():
    assert Column.parse("x[0:7]").width(6) == 0
    assert Column.parse("x[-7:]").width(6) == 0


def test_missing_columns_are_named_with_the_nearest_schema():
    # The gripper's state is present, but must not be read as the command.
    widths = {name: width for name, width in WIDTHS["droid"].items() if name != "action.gripper_position"}
    lacks = r"lacks gripper \(action\.gripper_position\).*MAP"
    nearest = rf"columns .* are observation.state \(8\).* nearest map, droid, the recording {lacks}"
    with pytest.raises(ValueError, match=nearest):
        choose(widths, None, "lerobot:x")
    with pytest.raises(ValueError, match=r"mimicgen, .* lacks joints \(observation.joint_position\), position"):
        choose(WIDTHS["droid"], "mimicgen", "x")
    with pytest.raises(ValueError, match="unknown schema 'droids'; choose from droid, mimicgen"):
        choose(WIDTHS["droid"], "droids", "x")


def test_a_user_s_map_is_checked_against_the_columns():
    schema = Schema("mine", joints="state[0:7]", position="state[7:10]", rotation="state[10:14]")
    check(schema, {"state": 14}, "x")
    with pytest.raises(
        ValueError, match=r"column map mine: rotation \(state\[10:14\], 0 of 12 values where 4.*state \(12\)"
    ):
        check(schema, {"state": 12}, "x")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"joints_unit": "degrees"}, "joints_unit is 'degrees'; choose from rad, deg"),
        ({"position_unit": "cm"}, "choose from m, mm"),
        ({"rotation_form": "quat"}, "choose from matrix, 6d, quaternion, quaternion_wxyz, axis_angle, euler_xyz"),
        ({"frame": "wrist"}, "unknown frame 'wrist'.*'flange'"),
        ({"rotation": None}, "needs both position and rotation"),
        ({"position": None, "rotation": None, "joints": None}, "name the joints of a known arm"),
        ({"position": None, "rotation": None, "arm": None}, "name the joints of a known arm"),
        ({"gripper_open": 1.0}, "both 1"),
    ],
)
def test_errors_teach(changes, problem):
    given = {"joints": "q", "position": "p", "rotation": "r"}
    with pytest.raises(ValueError, match=problem):
        Schema("mine", **{**given, **changes})


@pytest.mark.parametrize(("earlier", "name"), [("quat_xyzw", "quaternion"), ("quat_wxyz", "quaternion_wxyz")])
def test_earlier_names_of_rotations_are_read(earlier, name):
    schema = Schema("mine", position="p", rotation="r", rotation_form=earlier)
    assert schema == Schema("mine", position="p", rotation="r", rotation_form=name)


def test_files_that_are_no_maps(tmp_path):
    with pytest.raises(FileNotFoundError, match="column map"):
        Schema.from_json(tmp_path / "none.json")
    for text, problem in (
        ("{", "not JSON"),
        ('{"joint": "q"}', "unknown keys joint; a column map has arm"),
        ("[]", "list"),
    ):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(ValueError, match=problem):
            Schema.from_json(tmp_path / "map.json")


def test_openpi_s_names_are_libero_too():
    schema = choose({"state": 8, "actions": 7}, None, "x")
    assert schema.name == "libero"
    assert schema == choose({"state": 8, "actions": 7}, "libero", "x")
    assert schema.position == "state[0:3]"
    with pytest.raises(ValueError, match="no built-in column map fits"):
        choose({"state": 14, "actions": 14}, None, "x")


@pytest.mark.parametrize("text", ["", "[0:7]", "x[]", "x[-]", "x[0:1:2]", "x[a]", "x[0", "x[0:99999999999999999999]"])
def test_what_is_no_column_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a column\. Write a name"):
        Column.parse(text)


GIVEN = {"joints": "q", "position": "p", "rotation": "r", "gripper": "g"}
WRONG = {str: (5, True, [], {}), float: ("0", None, True, [], float("nan"), 10**400), bool: (1, "yes", None)}
KINDS = {"gripper_open": float, "gripper_closed": float, "world": bool, "fr3": bool}


@pytest.mark.parametrize("key", [key for key in SCHEMAS["droid"].to_dict() if key != "name"])
def test_values_of_another_kind_are_named(key, tmp_path):
    for value in WRONG[KINDS.get(key, str)]:
        (tmp_path / "map.json").write_text(json.dumps(GIVEN | {key: value}), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"map.*{key} must be"):
            Schema.from_json(tmp_path / "map.json")


def test_maps_are_read_as_any_editor_writes_them(tmp_path):
    path = tmp_path / "map.json"
    path.write_bytes(json.dumps(GIVEN | {"name": "\u624b"}, ensure_ascii=False).encode("utf-8-sig"))
    assert Schema.from_json(path).name == "\u624b"
    for data, problem in (
        (b'{"joints": "a", "joints": "b"}', "the key 'joints' twice"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"map\.json.*{problem}"):
            Schema.from_json(path)
