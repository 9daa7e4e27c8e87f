"""Every layout converts columns of a dataset to actions and back, and ambiguous columns are never guessed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from action_heads import EE_ABSOLUTE, EE_DELTA
from action_heads.actions.layout_checks import UNDECLARED, impossible
from action_heads.actions.layouts import LAYOUTS, ActionLayout, Part, layout_of
from action_heads.actions.rotations import from_matrix, to_matrix

SIGNED = (-1.0, 1.0)
SO_101 = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
ALOHA = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
STRETCH = ["head_pan", "head_tilt", "lift", "arm", "wrist_pitch", "wrist_roll", "wrist_yaw", "gripper"]
REACHY = ["shoulder_pitch", "shoulder_roll", "elbow_yaw", "elbow_pitch", "wrist_roll", "wrist_pitch", "wrist_yaw"]
REACHY += ["gripper"]
G1 = ["ShoulderPitch", "ShoulderRoll", "ShoulderYaw", "Elbow", "WristRoll", "WristPitch", "WristYaw"]


def columns(layout: ActionLayout, rows: int = 64) -> torch.Tensor:
    """Return random columns (rows d) of a dataset, with valid rotations in canonical form."""
    torch.manual_seed(0)
    pieces = []
    for part in layout.parts:
        x = torch.rand(rows, part.columns) * 2 - 1
        if part.kind == "rotation":
            x = from_matrix(to_matrix(x * part.unit, part.form), part.form) / part.unit
        if part.kind == "gripper":
            x = layout.gripper[0] + (x + 1) / 2 * (layout.gripper[1] - layout.gripper[0])
        pieces.append(x)
    return torch.cat(pieces, -1)


@pytest.mark.parametrize("gripper", [SIGNED, (0.0, 1.0), (100.0, 0.0)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_round_trip(name, gripper):
    layout = ActionLayout.parse(name, gripper)
    there = columns(layout)
    actions = layout.encode(there)
    assert actions.shape[-1] == layout.space().dim
    assert torch.allclose(layout.decode(actions), there, atol=2e-5 * max(map(abs, gripper)))
    assert ActionLayout.parse(str(layout), gripper) == layout


UNITS = [*(10.0**k for k in range(-300, 301, 20)), 1e16, 1e22, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3]


@pytest.mark.parametrize("unit", [*UNITS, np.float64(0.05), np.float32(0.05)], ids=repr)
@pytest.mark.parametrize("form", ["", "axis_angle", "euler_xyz"])
def test_units_of_every_size_are_read_back(unit, form):
    layout = ActionLayout((Part("rotation" if form else "position", 3, form, unit),))
    assert ActionLayout.parse(str(layout)) == layout


def test_libero_is_robosuites_controller():
    """A unit is 5 cm or 0.5 rad along and about the axes of the base, and the gripper closes at +1."""
    actions = ActionLayout.parse("libero").encode(torch.tensor([[1.0, 0, -1, 0, 0, 1, 1]]))
    parts = EE_DELTA.decode(actions, "axis_angle")
    assert torch.allclose(parts.position, torch.tensor([[0.05, 0, -0.05]]))
    assert torch.allclose(parts.rotation, torch.tensor([[0.0, 0, 0.5]]), atol=1e-6)
    assert torch.equal(parts.gripper, torch.tensor([1.0]))


def test_what_fits_the_bundled_heads():
    assert ActionLayout.parse("libero").space().parts == EE_DELTA.parts
    assert ActionLayout.parse("libero").space().mode == EE_DELTA.mode
    for name in ("pose_quaternion", "pose_euler", "pose_6d"):
        assert ActionLayout.parse(name).space().parts == EE_ABSOLUTE.parts


def test_normalizer_takes_the_range_in_robot_units():
    layout = ActionLayout.parse("libero")
    stats = {"min": [-1, -1, -1, -1, -1, -1, -1.0], "max": [1, 1, 1, 1, 1, 1, 1.0]}
    normalizer = layout.normalizer(stats, margin=0.0)
    assert torch.allclose(normalizer.scale[:3], torch.full((3,), 0.05))
    assert torch.equal(normalizer.scale[3:], torch.ones(7))


def ranges(low: float, high: float) -> dict[str, list[float]]:
    """Return statistics of six joints and a gripper."""
    return {"min": [0.0] * 6 + [low], "max": [1.0] * 6 + [high]}


@pytest.mark.parametrize(
    ("low", "high", "declared"), [(0.0, 1.0, UNDECLARED), (0.0, 100.0, SIGNED), (-1.0, 1.0, (0.0, 1.0))]
)
def test_a_gripper_that_is_not_as_declared(low, high, declared):
    layout = ActionLayout.parse("joints_6", declared)
    with pytest.raises(ValueError, match=r"column 6, the gripper, runs from .* such as"):
        layout.normalizer(ranges(low, high))


@pytest.mark.parametrize(
    ("low", "high", "declared"),
    [
        (0.0, 1.0, SIGNED),
        (0.2, 1.0, SIGNED),
        (0.0, 0.5, (0.0, 1.0)),
        (0.0, 1.0, (1.0, 0.0)),
        (20.0, 60.0, (0.0, 100.0)),
    ],
)
def test_a_declaration_counts_wherever_the_values_can_be_reached(low, high, declared):
    layout = ActionLayout.parse("joints_6", declared)
    assert (layout.normalizer(ranges(low, high)).scale > 0).all()


@pytest.mark.parametrize("declared", [UNDECLARED, SIGNED, (0.0, 1.0), (1.0, 0.0), (0.0, 100.0)])
@pytest.mark.parametrize("end", [0, 1])
def test_a_gripper_that_stays_is_learnt_as_it_is(declared, end):
    layout, value = ActionLayout.parse("joints_6", declared), declared[end]
    with pytest.warns(UserWarning, match=r"column 6, the gripper, is .* in every row"):
        layout.normalizer(ranges(value, value))
    there = torch.tensor([[0.5] * 6 + [value]])
    assert layout.encode(there)[0, -1] == (-1 if end == 0 else 1)
    assert torch.equal(layout.decode(layout.encode(there)), there)


def test_a_gripper_that_stays_beyond_what_was_declared_has_a_remedy_that_works():
    with pytest.raises(ValueError, match=r"is 100 in every row.*one of them may be 100"):
        ActionLayout.parse("joints_6").normalizer(ranges(100, 100))
    with pytest.warns(UserWarning, match="is 100 in every row"):
        ActionLayout.parse("joints_6", (0.0, 100.0)).normalizer(ranges(100, 100))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", LAYOUTS)
def test_statistics_that_are_not_finite_name_the_column(name, bad):
    layout = ActionLayout.parse(name)
    for column in range(layout.width):
        stats = {"min": [-1.0] * layout.width, "max": [1.0] * layout.width}
        stats["max"][column] = bad
        with pytest.raises(ValueError, match=rf"NaN or infinity in dimension {column} \("):
            layout.normalizer(stats)


def test_statistics_that_are_missing_are_named():
    with pytest.raises(ValueError, match=r"no max, only min, mean"):
        ActionLayout.parse("delta").normalizer({"min": [0.0] * 7, "mean": [0.0] * 7})
    with pytest.raises(ValueError, match=r"\(6,\); expected \(..., 7\)"):
        ActionLayout.parse("delta").normalizer({"min": [0.0] * 6, "max": [0.0] * 6})


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"], "joint:3 gripper"),
        ([*[f"left_joint_{i}" for i in range(6)], "left_gripper"] * 2, "joint:6 gripper joint:6 gripper"),
        ([f"{name}.pos" for name in SO_101], "joint:5 gripper"),
        ([f"main_{name}" for name in SO_101], "joint:5 gripper"),
        ([f"{side}_{name}" for side in ("left", "right") for name in ALOHA], "joint:6 gripper joint:6 gripper"),
        ([f"{name}.pos" for name in ALOHA], "joint:6 gripper"),
        ([f"{name}.pos" for name in STRETCH], "joint:7 gripper"),
        ([f"{side}_{name}.pos" for side in "rl" for name in REACHY], "joint:7 gripper joint:7 gripper"),
        ([f"neck_{angle}.pos" for angle in ("roll", "pitch", "yaw")], "joint:3"),
        ([f"k{side}{name}" for side in ("Left", "Right") for name in G1], "joint:14"),
        ([*[f"motor_{i}" for i in range(7)], "gripper_position"], "joint:7 gripper"),
        ([*[f"joint_position_{i}" for i in range(14)], "gripper_pos_0", "gripper_pos_1"], "joint:14 gripper gripper"),
        ([*[f"robot0_joint_pos_{i}" for i in range(7)], "robot0_gripper_qpos"], "joint:7 gripper"),
        ([*[f"z1_joint{i}.pos" for i in range(1, 7)], "d1_gripper"], "joint:6 gripper"),
    ],
)
def test_names_that_leave_no_doubt(names, found):
    assert str(layout_of(None, len(names), names, SIGNED)) == found


@pytest.mark.parametrize("names", [None, ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]])
def test_seven_columns_are_not_guessed(names):
    with pytest.raises(ValueError, match=r"7 columns.*libero.*joints_6"):
        layout_of(None, 7, names, SIGNED)


@pytest.mark.parametrize(
    "names",
    [
        ["gripper_x", "gripper_y", "gripper_z", "gripper_opening"],  # a pose of the gripper
        ["gripper_x", "gripper_y", "gripper_z", "gripper_roll", "gripper_pitch", "gripper_yaw", "gripper"],
        ["wrist.x", "wrist.y", "wrist.z", "gripper.pos"],
        [*[f"j{i}" for i in range(9)], "grip"],  # ten columns that are no pose
        ["x.pos", "y.pos", "z.pos", "roll.pos", "pitch.pos", "yaw.pos", "gripper.pos"],
        [*[f"ee.{name}.pos" for name in ("x", "y", "z", "roll", "pitch", "yaw")], "gripper.pos"],
        ["tcp_roll.pos", "tcp_pitch.pos", "tcp_yaw.pos", "gripper.pos"],
        [*[f"wrist_{name}" for name in ("wx", "wy", "wz")], "gripper"],
        ["wrist_rot6d_0", "wrist_rot6d_1", "wrist_pos_0", "wrist_pos_1", "wrist_pos_2", "gripper"],
        [*[f"wrist_pos_{i}" for i in range(3)], *[f"wrist_rot6d_{i}" for i in range(6)], "gripper"],
        [*[f"wrist_rot6d_{i}" for i in range(6)], *[f"wrist_{axis}" for axis in "xyz"], "gripper"],
        [*[f"wristPosition{i}" for i in range(3)], *[f"wristQuat{i}" for i in range(4)], "gripper"],
        [*[f"left_wrist_position.{i}" for i in range(3)], *[f"left_wrist_orientation.{i}" for i in range(4)]],
        [*[f"wrist_pos_{axis}" for axis in "xyz"], *[f"wrist_quat_{axis}" for axis in "wxyz"], "gripper"],
        [*[f"gripper_pos_{i}" for i in range(3)], *[f"gripper_rot_{i}" for i in range(3)], "gripper_open"],
        ["object_pos", "lift_pos", "gripper"],
        [*[f"{axis}_pos.pos" for axis in "XYZ"], "gripper.pos"],
    ],
)
def test_names_that_say_another_meaning_are_not_guessed(names):
    with pytest.raises(ValueError, match="their meaning is not known"):
        layout_of(None, len(names), names, SIGNED)


@pytest.mark.parametrize(
    "names", [None, [f"action_{i}" for i in range(10)], ["x", "y", "z", "a", "b", "c", "d", "e", "f", "gripper"]]
)
def test_ten_columns_are_a_pose_if_their_names_allow_it(names):
    assert str(layout_of(None, 10, names, SIGNED)) == LAYOUTS["pose_6d"]


def test_a_declared_layout_may_not_contradict_the_names():
    names = ["gripper.pos", *[f"joint_{i}.pos" for i in range(6)]]
    with pytest.raises(ValueError, match="has the gripper at column 6, but the dataset's names say column 0"):
        layout_of("joints_6", 7, names, SIGNED)
    assert layout_of("joint:7", 7, names, SIGNED).width == 7  # any numbers may count as joints


@pytest.mark.parametrize(
    ("layout", "column", "value", "said"),
    [
        ("pose_quaternion", 4, 2.5, r"dimension 4 \(quaternion, 2 of 4\) reaches 2\.5, .* Are these joints"),
        ("pose_6d", 8, -2.5, r"dimension 8 .* reaches 2\.5"),
        ("pose_euler", 3, 180.0, r"dimension 3 .* reaches 180, but no rotation as euler_xyz exceeds 6\.29.* degrees"),
        ("libero", 5, 30.0, r"dimension 5 .* as axis_angle exceeds 12\.59"),
    ],
)
def test_columns_that_are_no_rotations(layout, column, value, said):
    found = ActionLayout.parse(layout, SIGNED)
    low, high = np.full(found.width, -1.0), np.full(found.width, 1.0)
    found.normalizer({"min": low, "max": high})
    low[column] = high[column] = value
    with pytest.raises(ValueError, match=said):
        found.normalizer({"min": low, "max": high})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_are_no_rotations(layout):
    """Zeros are a common placeholder for a rotation that was not recorded, and encode to NaN."""
    found = ActionLayout.parse(layout, SIGNED)
    assert not impossible(found, columns(found)).any()
    zeros = torch.zeros(6, found.width)
    encodes = found.encode(zeros).isfinite().all(-1)
    assert torch.equal(impossible(found, zeros), ~encodes)


def test_a_layout_of_another_width():
    with pytest.raises(ValueError, match="'joints_7' has 8 columns, but the dataset's actions have 7"):
        layout_of("joints_7", 7, None, SIGNED)


@pytest.mark.parametrize("text", ["", "position rot", "position*0", "joint:0", "quaternion*2", "gripper*0.5"])
def test_no_layout(text):
    with pytest.raises(ValueError, match=r"unknown part|unit"):
        ActionLayout.parse(text)
