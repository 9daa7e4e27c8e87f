"""URDF files are read with mimic joints and their tree of links, and an error names the element.

Axes: `j` joints of the arm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from robots import hanging, jointed, urdf

from action_heads.kinematics.model import CONTINUOUS, SPEED, read_arm


def saved(folder: Path, text: str) -> Path:
    (folder / "arm.urdf").write_text(text)
    return folder / "arm.urdf"


def following(scale: str = "-0.5", shift: str = "0.1", joint: str = "2") -> str:
    mimic = f'<mimic joint="{joint}" multiplier="{scale}" offset="{shift}"/>'
    return hanging("b6", "6", "-1.5", "1.5", inside=mimic)


def test_a_mimicking_joint_follows(tmp_path: Path) -> None:
    """A mimic joint follows its file's rule, so that an arm of six joints has five of its own."""
    arm, free = read_arm(saved(tmp_path, urdf(following()))), None
    free = read_arm(saved(tmp_path, urdf(hanging("b6", "6", "-1.5", "1.5"))), "b6")
    assert (len(arm), len(free)) == (5, 6)
    joints = torch.lerp(arm.lower, arm.upper, torch.rand(16, 5, generator=torch.Generator().manual_seed(0))).double()
    full = torch.cat([joints, 0.1 - 0.5 * joints[:, 1:2]], dim=1)
    for ours, theirs in zip(arm.forward(joints, "b6"), free.forward(full, "b6"), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda q: arm.forward(q, "b6"), joints[:2].requires_grad_())


def test_a_mimicking_joint_agrees_with_pinocchio(tmp_path: Path) -> None:
    pin = pytest.importorskip("pinocchio")
    path = saved(tmp_path, urdf(following()))
    arm, model = read_arm(path), pin.buildModelFromUrdf(str(path), mimic=True)
    data, tip = model.createData(), model.getFrameId("b6")
    joints = torch.lerp(arm.lower, arm.upper, torch.rand(8, 5, generator=torch.Generator().manual_seed(0))).double()
    position, matrix = arm.forward(joints, "b6")
    for i, posture in enumerate(joints.numpy()):
        pin.framesForwardKinematics(model, data, posture)
        np.testing.assert_allclose(position[i], data.oMf[tip].translation, atol=1e-9)
        np.testing.assert_allclose(matrix[i], data.oMf[tip].rotation, atol=1e-9)


def test_what_follows_bounds_what_leads(tmp_path: Path) -> None:
    """The limits and speed of a mimic joint, which follows joint 2 four times as fast, narrow those of joint 2."""
    arm = read_arm(saved(tmp_path, urdf(following("4", "0"))))
    torch.testing.assert_close(arm.lower[1], torch.tensor(-0.375))
    torch.testing.assert_close(arm.upper[1], torch.tensor(0.375))
    torch.testing.assert_close(arm.velocity[1], torch.tensor(0.5))
    beside = hanging("rod", "rod", "-0.4", "0.6", inside='<mimic joint="2"/>', on="b1")
    arm = read_arm(saved(tmp_path, urdf(beside)), "b5")
    torch.testing.assert_close(torch.stack([arm.lower[1], arm.upper[1]]), torch.tensor([-0.4, 0.6]))


def test_an_arm_may_follow_what_is_not_of_it(tmp_path: Path) -> None:
    """A joint of the arm that mimics a joint outside the arm moves freely, within the limits of both."""
    mimic = '<mimic joint="rod" multiplier="2" offset="0"/>'
    text = urdf(hanging("rod", "rod", "-0.4", "0.6", on="b1"))
    with_mimic = text.replace(
        '<limit lower="-1.9" upper="1.2" velocity="2" effort="9"/>', f'<limit lower="-1.9" upper="1.2"/>{mimic}'
    )
    assert with_mimic != text
    arm = read_arm(saved(tmp_path, with_mimic), "b5")
    assert len(arm) == 5
    torch.testing.assert_close(torch.stack([arm.lower[1], arm.upper[1]]), torch.tensor([-0.8, 1.2]))


ROOT = '<link name="b6"/>'


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (following(joint="9"), "<joint name='6'>: it mimics '9', which is no joint"),
        (following(joint="6"), "joint '6' follows itself"),
        (following(scale="x"), "<mimic>: multiplier='x' is not 1 finite"),
        (following(shift="40"), "cannot move: the joints coupled to it"),
        (ROOT, "expected one link that no joint carries, the root; found 'root', 'b6'"),
        ('<link name="b5"/>', "<link name='b5'>: line 1 has another link of this name"),
        ("<link/>", "<link>: the attribute 'name' is missing"),
        (ROOT + jointed("5", "b5", "b6", "0 0 1", "-1", "1"), "<joint name='5'>: line 1 has another"),
        (ROOT + jointed("6", "b5", "b7", "0 0 1", "-1", "1"), "<joint name='6'>: its child 'b7' is no link"),
        (ROOT + jointed("6", "b5", "b4", "0 0 1", "-1", "1"), "'b4' is carried by joint '4' already"),
        (
            '<link name="x"/><link name="y"/>'
            + jointed("x", "y", "x", "1 0 0", "-1", "1")
            + jointed("y", "x", "y", "1 0 0", "-1", "1"),
            "in a circle",
        ),
        (hanging("b6", "6", "-1", "1", "screw"), "type='screw' is unknown; expected one of revolute"),
        (hanging("b6", "6", "-1", "1", "floating"), "'6' is of the type 'floating', but a serial arm"),
        (hanging("b6", "6", "-1", "1", "planar"), "'6' is of the type 'planar', but a serial arm"),
        (hanging("b6", "6", "1", "-1"), "'6' has a lower limit, 1, above its upper limit, -1. Swap"),
        (hanging("b6", "6", "-170", "170"), "limits -170 and 170; expected radians, not degrees"),
        (hanging("b6", "6", "nan", "1"), "<limit>: lower='nan' is not 1 finite"),
        (hanging("b6", "6", "-1e999", "1"), "<limit>: lower='-1e999' is out of range"),
        (hanging("b6", "6", "0", "900", "prismatic"), "expected metres, not millimetres"),
        (hanging("b6", "6", "-1", "1").replace('velocity="2"', 'velocity="-2"'), "velocity=-2 is negative"),
        (hanging("b6", "6", "-1", "1").replace("0 1 0", "0 0 0"), "<joint name='6'>: its axis is zero"),
        (hanging("b6", "6", "-1", "1").replace("0.1 0 0.2", "100 0 1e9"), "xyz='100 0 1e9' is out of range"),
        (hanging("b6", "6", "-1", "1").replace("0.1 0 0.2", "${x} 0 0"), "Expand the file with xacro first"),
        (hanging("b6", "6", "-1", "1", inside='<axis xyz="1 0 0"/>'), "has 2 elements <axis>, expected one"),
        (hanging("b6", "6", "-1", "1").replace("<parent", "<nobody"), "it has no <parent link=...>"),
        ('<xacro:include filename="x"/>', "this is xacro"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_arm(saved(tmp_path, urdf(extra)))
    assert str(raised.value).startswith(str(tmp_path / "arm.urdf"))


def test_a_joint_without_limits_is_named(tmp_path: Path) -> None:
    text = hanging("b6", "6", "-1", "1").replace('<limit lower="-1" upper="1" velocity="2" effort="9"/>', "")
    with pytest.raises(ValueError, match="<joint name='6'>: it has no <limit>"):
        read_arm(saved(tmp_path, urdf(text)))
    arm = read_arm(saved(tmp_path, urdf(text.replace("revolute", "continuous"))))
    assert arm.continuous[-1]
    assert arm.upper[-1] == pytest.approx(CONTINUOUS)
    assert arm.velocity[-1] == SPEED


def test_a_fixed_joint_s_axis_is_no_matter(tmp_path: Path) -> None:
    """The axis of a fixed joint is ignored, since exporters write zeros there."""
    tool = hanging("tool", "t", "0", "0", "fixed").replace("0 1 0", "0 0 0")
    assert read_arm(saved(tmp_path, urdf(tool))).frame == "tool"


def test_a_long_chain_is_refused(tmp_path: Path) -> None:
    chain = [hanging(f"b{i}", str(i), "-3", "3", on=f"b{i - 1}") for i in range(6, 90)]
    with pytest.raises(ValueError, match="89 joints move 'b89', at most 64"):
        read_arm(saved(tmp_path, urdf(*chain)))
    assert len(read_arm(tmp_path / "arm.urdf", "b60")) == 60
