"""MJCF has MuJoCo's meaning: orientations, classes, references, anchors, frames, files and couplings.

Axes: `j` joints of the arm.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from robots import finger, mjcf, some_mjcf

from action_heads.kinematics.arm import Arm
from action_heads.kinematics.model import read_arm


def saved(folder: Path, text: str, name: str = "arm.xml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def postures(arm: Arm, n: int = 4, seed: int = 0) -> torch.Tensor:
    share = torch.rand(n, len(arm), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.lerp(arm.lower.double(), arm.upper.double(), share)


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_mujoco_however_it_is_written(tmp_path: Path, seed: int) -> None:
    mujoco = pytest.importorskip("mujoco")
    path = some_mjcf(seed, tmp_path)
    arm, model = read_arm(path, "tip"), mujoco.MjModel.from_xml_path(str(path))
    data, root = mujoco.MjData(model), model.body("body0").id
    joints = postures(arm)
    position, matrix = arm.forward(joints, "tip")
    assert len(arm) == model.njnt
    for i, posture in enumerate(joints.numpy()):
        data.qpos[:] = posture
        mujoco.mj_kinematics(model, data)
        base = data.xmat[root].reshape(3, 3)
        np.testing.assert_allclose(position[i], base.T @ (data.body("tip").xpos - data.xpos[root]), atol=1e-6)
        np.testing.assert_allclose(matrix[i], base.T @ data.body("tip").xmat.reshape(3, 3), atol=1e-6)
    limited = model.jnt_limited.astype(bool)
    assert [not endless for endless in arm.continuous or [False] * len(arm)] == limited.tolist()
    np.testing.assert_allclose(arm.lower[limited], model.jnt_range[limited, 0], atol=1e-6)
    np.testing.assert_allclose(arm.upper[limited], model.jnt_range[limited, 1], atol=1e-6)


def test_included_files_are_read(tmp_path: Path) -> None:
    whole = mjcf(tail='<keyframe><key name="home" qpos="0.1 0.2 0.3 0.4 0.5"/></keyframe>')
    begin, rest = whole.split("<worldbody>")
    inside, end = rest.split("</worldbody>")
    (tmp_path / "parts").mkdir()
    saved(tmp_path, "<mujocoinclude><include file='deeper.xml'/></mujocoinclude>", "parts/limb.xml")
    saved(tmp_path, f"<mujocoinclude>{inside}</mujocoinclude>", "parts/deeper.xml")
    split = saved(tmp_path, f"{begin}<worldbody><include file='parts/limb.xml'/></worldbody>{end}", "split.xml")
    one, other = read_arm(saved(tmp_path, whole)), read_arm(split)
    joints = postures(one)
    for ours, theirs in zip(one.forward(joints, "b5"), other.forward(joints, "b5"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    torch.testing.assert_close(other.home, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    before = other.name
    saved(tmp_path, f"<mujocoinclude>{inside} </mujocoinclude>", "parts/deeper.xml")
    assert read_arm(split).name != before, "an arm's name must change with every file that it is made of"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, mjcf(tail="<include file='keyframes.xml'/>"))
    with pytest.warns(UserWarning, match=r"arm\.xml, line 1: the included file keyframes\.xml is missing"):
        assert len(read_arm(path)) == 5
    for text, message in (
        (mjcf("<include file='hand.xml'/>"), "includes hand.xml, which is not in .*Put it there"),
        (mjcf(tail="<include file='arm.xml'/>"), "includes arm.xml again"),
        (mjcf(tail="<include/>"), "the attribute 'file' is missing"),
        (mjcf(f"<include file='{'x' * 3000}'/>"), "includes xxx"),
        (mjcf("<include file='/dev/zero'/>"), "not a regular file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arm(saved(tmp_path, text))


def test_home_is_a_keyframe_or_the_middle(tmp_path: Path) -> None:
    """Home is a keyframe, or else the middle of every range, even if qpos0 lies within the ranges."""
    arm = read_arm(saved(tmp_path, mjcf()))
    torch.testing.assert_close(arm.home, (arm.lower + arm.upper) / 2)
    assert arm.home.abs().max() > 0.1
    named = '<keyframe><key name="rest" qpos="0 0 0 0 0"/><key name="home" qpos="0 1 0 0 0.5"/></keyframe>'
    assert read_arm(saved(tmp_path, mjcf(tail=named))).home.tolist() == [0, 1, 0, 0, 0.5]
    first = '<keyframe><key ctrl="1 2"/><key name="rest" qpos="0 0.5 0 0 0"/></keyframe>'
    assert read_arm(saved(tmp_path, mjcf(tail=first))).home.tolist() == [0, 0.5, 0, 0, 0]
    for qpos, message in (
        ("0 9 0 0 0", "puts joint '2' at 9, outside"),
        ("0 0 0", "has 3 numbers, but the joints of the file have 5"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arm(saved(tmp_path, mjcf(tail=f'<keyframe><key name="home" qpos="{qpos}"/></keyframe>')))


def test_keyframes_count_balls_and_what_floats(tmp_path: Path) -> None:
    cube = '<body name="cube"><freejoint/><geom size="0.02"/></body>'
    text = mjcf(tail='<keyframe><key name="home" qpos="1 2 3 1 0 0 0 0.1 0.2 0.3 0.4 0.5"/></keyframe>')
    arm = read_arm(saved(tmp_path, text.replace("<worldbody>", f"<worldbody>{cube}")))
    torch.testing.assert_close(arm.home, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))


COUPLED = '<equality><joint joint1="3" joint2="2" polycoef="0.1 -0.5 0 0 0"/></equality>'


def test_a_joint_that_follows_another_is_none_of_the_arm_s_own(tmp_path: Path) -> None:
    mujoco = pytest.importorskip("mujoco")
    path = saved(tmp_path, mjcf(tail=COUPLED))
    arm, model = read_arm(path), mujoco.MjModel.from_xml_path(str(path))
    assert len(arm) == 4
    # Joint 3 has -2.4 to 0.9: -0.5 q + 0.1 stays within for q from -1.6 on, and joint 2 begins at -1.9.
    assert arm.lower[1] == pytest.approx(-1.6)
    assert arm.upper[1] == pytest.approx(1.2)
    data, joints = mujoco.MjData(model), postures(arm)
    position, matrix = arm.forward(joints, "b5")
    for i, (first, second, *others) in enumerate(joints.tolist()):
        data.qpos[:] = [first, second, 0.1 - 0.5 * second, *others]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(position[i], data.body("b5").xpos - data.body("root").xpos, atol=1e-6)
        np.testing.assert_allclose(matrix[i], data.body("b5").xmat.reshape(3, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("equality", "message"),
    [
        ('<joint joint1="3" joint2="2" polycoef="0 1 0.5"/>', "joint '3' of the arm is not free: it follows '2' along"),
        ('<joint joint1="3" joint2="2"/><joint joint1="3" joint2="1"/>', "'3' of the arm .* coupled twice"),
        ('<joint joint1="3" joint2="2"/><joint joint1="2" joint2="3"/>', "follows itself"),
        ('<joint joint1="3" joint2="nine"/>', "couples 'nine', which is not a hinge or slide joint"),
        ('<joint joint1="3" joint2="3"/>', "to itself"),
        ('<connect body1="b4" body2="b2" anchor="0 0 0"/>', "closes a loop with joint '3' of the arm"),
        ('<weld body1="b3"/>', "closes a loop with joint '1' of the arm"),
        ('<connect body1="b4" body2="nine" anchor="0 0 0"/>', "'nine' is not a body"),
        ('<joint joint1="3" joint2="2" polycoef="4 0.1"/>', "joint '2' cannot move: .*coupled"),
    ],
)
def test_couplings_that_no_serial_arm_has_are_refused(tmp_path: Path, equality: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"arm\.xml, line \d+, <.*{message}"):
        read_arm(saved(tmp_path, mjcf(tail=f"<equality>{equality}</equality>")))


@pytest.mark.parametrize(
    "equality",
    [
        '<joint joint1="3" joint2="2" active="false"/>',
        '<weld body1="mocap" body2="b5"/>',
        '<weld body1="root"/>',
        '<connect body1="b5" body2="cube" anchor="0 0 0"/>',
    ],
)
def test_what_leaves_the_arm_free_changes_nothing(tmp_path: Path, equality: str) -> None:
    others = '<body name="mocap" mocap="true"/><body name="cube"><freejoint/><geom size="0.1"/></body>'
    text = mjcf(tail=f"<equality>{equality}</equality>").replace("<worldbody>", f"<worldbody>{others}")
    arm, plain = read_arm(saved(tmp_path, text)), read_arm(saved(tmp_path, mjcf(), "plain.xml"))
    assert arm.frame == "b5"
    torch.testing.assert_close(arm.forward(postures(plain), "b5")[0], plain.forward(postures(plain), "b5")[0])


def test_a_joint_held_by_a_coupling_stands_still(tmp_path: Path) -> None:
    held = '<equality><joint joint1="3" polycoef="0.4"/></equality>'
    arm, plain = read_arm(saved(tmp_path, mjcf(tail=held))), read_arm(saved(tmp_path, mjcf(), "plain.xml"))
    joints = postures(arm)
    full = torch.cat([joints[:, :2], torch.full((len(joints), 1), 0.4).double(), joints[:, 2:]], dim=1)
    torch.testing.assert_close(arm.forward(joints, "b5")[0], plain.forward(full, "b5")[0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('axis="0 1 0"', 'axis="0 0 0"', "<joint name='2'>: its axis is zero"),
        ('axis="0 1 0"', 'axis="0 nan 0"', "<joint name='2'>: axis='0 nan 0' is not 3 finite number"),
        ('axis="0 1 0"', 'axis="0 1"', "<joint name='2'>: axis='0 1' is not 3"),
        ('axis="0 1 0"', 'axis="0 1 0" class="none"', "no default class 'none'"),
        ('axis="0 1 0"', 'axis="0 1 0" type="screw"', "type='screw' is unknown; expected one of hinge"),
        ('axis="0 1 0"', 'axis="0 1 0" type="ball"', "joint '2' is of the type 'ball joint', but a serial arm"),
        ('range="-1.9 1.2"', 'range="1.2 -1.9"', "'2' has a lower limit, 1.2, above its upper limit, -1.9"),
        ('range="-1.9 1.2"', 'range="1e999 1e999"', "1e999 1e999' is out of range"),
        ('range="-1.9 1.2"', 'range="-110 70"', "limits -110 and 70; expected radians"),
        ('range="-1.9 1.2"', 'range="-1 1" limited="maybe"', "limited='maybe'"),
        ('range="-1.9 1.2"', 'type="slide"', "sliding joint '2' has no limits"),
        ('range="-1.9 1.2"', 'type="slide" range="0 250"', "expected metres, not millimetres"),
        ('name="2"', 'name="1"', "line 1 has another joint of this name"),
        ('name="b2"', 'name="b1"', "another body of this name"),
        ('name="b2"', 'name="b2" quat="0 0 0 0"', "quat is zero"),
        ('name="b2"', 'name="b2" quat="1 0 0 0" euler="0 0 1"', "quat and euler; expected one"),
        ('name="b2"', 'name="b2" xyaxes="1 0 0 2 0 0"', "y axis is zero"),
        ('angle="radian"', 'angle="grad"', "angle='grad' is unknown"),
        ('angle="radian"', 'coordinate="global"', "global coordinates"),
        ('angle="radian"', 'eulerseq="abc"', "eulerseq='abc'"),
        ('angle="radian"', 'angle="radian" autolimits="false"', "autolimits is false"),
        ('angle="radian"', "", 'compiler angle="radian"'),
        ("<worldbody>", "<worldbody><joint/>", "the element 'joint' does not belong here"),
        ("<worldbody>", "<worldbody><attach model='x'/>", "<attach> creates bodies"),
        ("<worldbody>", "<worldbody><replicate count='9'><body/></replicate>", "<replicate> creates bodies"),
        ("<worldbody>", "<default class='a'/><worldbody>", "outermost default class must be main"),
        ("<worldbody>", "<default><default/></default><worldbody>", "the attribute 'class' is missing"),
        ("<mujoco>", "<robot>", "well-formed"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = mjcf()
    assert old in text
    with pytest.raises(ValueError, match=message) as raised:
        read_arm(saved(tmp_path, text.replace(old, new, 1)))
    assert str(raised.value).startswith(str(tmp_path / "arm.xml"))


def test_meshes_that_are_missing_are_no_matter(tmp_path: Path) -> None:
    mesh = '<geom type="mesh" mesh="hull"/>'
    asset = '<asset><mesh name="hull" file="nowhere.stl"/></asset>'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_arm(saved(tmp_path, mjcf(mesh, tail=asset)))) == 5


def test_a_site_may_be_the_tip(tmp_path: Path) -> None:
    site = '<site name="pinch" pos="0 0 0.1" euler="0 0.3 0"/>'
    arm = read_arm(saved(tmp_path, mjcf(site)), "pinch")
    joints = postures(arm)
    at, frame = arm.forward(joints, "pinch")
    origin, matrix = read_arm(tmp_path / "arm.xml").forward(joints, "b5")
    torch.testing.assert_close(at, origin + 0.1 * matrix[..., 2])
    torch.testing.assert_close(frame[..., 1], matrix[..., 1])


def test_a_finger_far_from_the_arm_may_have_any_limits(tmp_path: Path) -> None:
    assert len(read_arm(saved(tmp_path, mjcf(finger("jaw", "jaw", "0.1 0.1"))))) == 5
