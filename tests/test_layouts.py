"""Columns of a dataset <-> actions of a head: every layout there and back, and no guess where there is a doubt."""

from __future__ import annotations

import pytest
import torch

from action_heads import EE_ABSOLUTE, EE_DELTA
from action_heads.layouts import LAYOUTS, ActionLayout, layout_of
from action_heads.rotations import from_matrix, to_matrix

SIGNED = (-1.0, 1.0)


def columns(layout: ActionLayout, rows: int = 64) -> torch.Tensor:
    """Actions (rows d) as a dataset may hold them: rotations that exist, each written in its one form."""
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


def test_libero_is_robosuites_controller():
    """A unit is 5 cm and half a radian, about the axes of the base; the gripper closes at +1."""
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


@pytest.mark.parametrize(
    ("low", "high", "declared"), [(0.0, 1.0, SIGNED), (0.0, 100.0, SIGNED), (-1.0, 1.0, (0.0, 1.0))]
)
def test_a_gripper_that_is_not_as_declared(low, high, declared):
    layout = ActionLayout.parse("joints_6", declared)
    with pytest.raises(ValueError, match=r"column 6, the gripper, runs from .* such as"):
        layout.normalizer({"min": [0.0] * 6 + [low], "max": [1.0] * 6 + [high]})


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"], "joint:3 gripper"),
        ([*[f"left_joint_{i}" for i in range(6)], "left_gripper"] * 2, "joint:6 gripper joint:6 gripper"),
    ],
)
def test_names_that_leave_no_doubt(names, found):
    assert str(layout_of(None, len(names), names, SIGNED)) == found


@pytest.mark.parametrize("names", [None, ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]])
def test_seven_columns_are_not_guessed(names):
    with pytest.raises(ValueError, match=r"7 columns.*libero.*joints_6"):
        layout_of(None, 7, names, SIGNED)


def test_a_layout_of_another_width():
    with pytest.raises(ValueError, match="'joints_7' has 8 columns, the dataset's action 7"):
        layout_of("joints_7", 7, None, SIGNED)


@pytest.mark.parametrize("text", ["", "position rot", "position*0", "joint:0", "quaternion*2", "gripper*0.5"])
def test_no_layout(text):
    with pytest.raises(ValueError, match=r"unknown part|unit"):
        ActionLayout.parse(text)
