"""The end of an arm is found without its jaws and fingers, and an ambiguous end is refused with the candidates.

The robots are made up after real ones: SO-100 and SO-101, Unitree Z1, a low-cost arm, ALOHA, Robotiq's hand, UR5.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from robots import LIMB, finger, hanging, jointed, mjcf, urdf

from action_heads.kinematics.model import read_arm


def saved(folder: Path, text: str) -> Path:
    path = folder / ("arm.xml" if text.startswith("<mujoco") else "arm.urdf")
    path.write_text(text)
    return path


SLIDES = finger("left", "l", "0 0.04", "slide"), finger("right", "r", "0 0.04", "slide")
JAWS = '<compiler angle="radian"/><default><default class="Jaw"/></default>'
EQUAL = '<equality><joint joint1="l" joint2="r"/></equality>'
ROBOTIQ = (
    finger("driver_a", "da", "0 0.8", inside=finger("coupler_a", "ca", "-1.5 0")),
    finger("spring_a", "sa", "-0.3 0.8", inside=finger("follower_a", "fa", "-0.8 0.8")),
    finger("driver_b", "db", "0 0.8"),
)
LOOP = '<connect body1="follower_a" body2="coupler_a" anchor="0 0 0"/>'
ROBOTIQ_TAIL = f'<equality>{LOOP}<joint joint1="da" joint2="db"/></equality>'


@pytest.mark.parametrize(
    ("text", "tip"),
    [
        (mjcf(finger("Moving_Jaw", "Jaw", "-0.174 1.75")), "b5"),
        (mjcf(finger("part", "x", "-0.174 1.75"), head=JAWS).replace('name="x"', 'name="x" class="Jaw"'), "b5"),
        (mjcf(finger("gripperMover", "jointGripper", "-1.52 0")), "b5"),
        (mjcf(finger("gripper_moving", "opening", "-1.6 0.03")), "b5"),
        (mjcf(finger("jaw", "gripper", "-0.2 2")).replace("b5", "Fixed_Jaw"), "Fixed_Jaw"),
        (mjcf(*SLIDES), "b5"),
        (mjcf(*SLIDES, tail=EQUAL), "b5"),
        (mjcf(finger("a", "l", "0 0.8"), finger("b", "r", "-0.8 0"), tail=EQUAL), "b5"),
        (mjcf(*ROBOTIQ, tail=ROBOTIQ_TAIL), "b5"),
        (mjcf(f'<body name="hand">{"".join(SLIDES)}</body>'), "hand"),
        (mjcf('<body name="gripper_base"><geom size="0.1"/></body>'), "gripper_base"),
        (urdf(hanging("jaw", "gripper", "-0.2", "2.0")), "b5"),
        (urdf(hanging("moving_jaw_so101_v1_link", "6", "-0.17", "1.75")), "b5"),
        (urdf(hanging("finger_a", "a", "0", "0.8"), hanging("finger_b", "b", "0", "0.8")), "b5"),
        (urdf(hanging("a", "a", "0", "0.8"), hanging("b", "b", "0", "0.8", inside='<mimic joint="a"/>')), "b5"),
        (urdf(hanging("knuckle", "a", "0", "0.8"), hanging("x", "claw", "0", "0.8", on="knuckle")), "b5"),
        (urdf(hanging("tool", "mount", "0", "0", "fixed"), hanging("jaw", "g", "0", "1", on="tool")), "tool"),
        (urdf('<link name="plate"/>', jointed("p", "root", "plate", "0 0 1", "0", "0", "fixed")), "b5"),
    ],
)
def test_fingers_and_jaws_are_none_of_the_arm(tmp_path: Path, text: str, tip: str) -> None:
    arm = read_arm(saved(tmp_path, text))
    assert (len(arm), arm.frame) == (len(LIMB), tip)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (mjcf(finger("link6", "joint6", "-0.174 1.75")), r"turns from -0\.17 to 1\.8 rad, to one side alone"),
        (mjcf(finger("link6", "joint6", "-1.52 0")), "to one side alone"),
        (mjcf(finger("link6", "joint6", "0 0.07", "slide")), r"slides 0\.07 m"),
        (mjcf(finger("gripper", "joint6", "-1.5 1.5")), "the name 'gripper' says so"),
        (
            mjcf(finger("link6", "joint6", "-1 1", inside='<geom type="mesh" mesh="Moving_Jaw"/>')),
            "'Moving_Jaw' says so",
        ),
        (urdf(hanging("link6", "joint6", "0", "0.7")), "to one side alone"),
    ],
)
def test_what_may_be_a_jaw_is_for_the_user_to_say(tmp_path: Path, text: str, why: str) -> None:
    path = saved(tmp_path, text)
    last = "gripper" if "'gripper'" in why else "link6"
    with pytest.raises(ValueError, match=rf"line 1: joint 'joint6', .*{why}.*\?tip={last}; if it is a jaw, \?tip=b5"):
        read_arm(path)
    assert len(read_arm(path, last)) == len(LIMB) + 1
    assert len(read_arm(path, "b5")) == len(LIMB)


@pytest.mark.parametrize("limits", ["-2.8 2.8", "-1.5 1.5", "-6.28 6.28", "-3.05 2.9"])
@pytest.mark.parametrize("joint", ["joint6", "wrist_roll", "gripper_roll"])
def test_a_wrist_is_of_the_arm(tmp_path: Path, limits: str, joint: str) -> None:
    for name in ("link6", "hand", "Fixed_Jaw" if joint == "wrist_roll" else "link6"):
        arm = read_arm(saved(tmp_path, mjcf(finger(name, joint, limits))))
        assert (len(arm), arm.frame) == (len(LIMB) + 1, name)


def two_arms() -> str:
    left, right = (
        mjcf(*(one.replace('"l', f'"{side}l').replace('"r', f'"{side}r') for one in SLIDES), names=f"{side}/")
        for side in ("left", "right")
    )
    first, second = (text.split("<worldbody>")[1].split("</worldbody>")[0] for text in (left, right))
    stands = second.replace('<body name="right/root">', '<body name="right/root" pos="1 0 0" quat="0 0 0 1">')
    return f'<mujoco><compiler angle="radian"/><worldbody><light/>{first}{stands}</worldbody></mujoco>'


def test_of_two_arms_one_is_to_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path, two_arms())
    choices = r"ends in 2 links: left/b5 \(5 joints\), right/b5 \(5 joints\)\. Name the one to move, as in \?tip=NAME"
    with pytest.raises(ValueError, match=choices):
        read_arm(path)
    joints = torch.zeros(1, 5, dtype=torch.float64)
    left, right = (read_arm(path, f"{side}/b5") for side in ("left", "right"))
    # Both are seen from their own base, wherever it stands.
    torch.testing.assert_close(left.forward(joints, "left/b5")[0], right.forward(joints, "right/b5")[0])


def test_ends_without_joints_are_no_choice(tmp_path: Path) -> None:
    ends = [
        f'<link name="{name}"/>' + jointed(f"to_{name}", "b5", name, "0 0 1", "0", "0", "fixed")
        for name in ("ee", "tool0")
    ]
    plate = '<link name="plate"/>' + jointed("p", "root", "plate", "0 0 1", "0", "0", "fixed")
    path = saved(tmp_path, urdf(*ends, plate))
    with pytest.raises(ValueError, match=r"ends in 2 links: ee \(5 joints\), tool0 \(5 joints\)\. Name"):
        read_arm(path)
    assert read_arm(path, "tool0").frame == "tool0"
    with pytest.raises(ValueError, match="no joint moves 'plate'"):
        read_arm(path, "plate")


def test_a_scene_s_loose_things_are_no_choice(tmp_path: Path) -> None:
    things = '<body name="cube"><freejoint/><geom size="0.1"/></body><body name="table"><geom size="0.1"/></body>'
    assert read_arm(saved(tmp_path, mjcf().replace("<worldbody>", f"<worldbody>{things}"))).frame == "b5"
    door = '<body name="door"><joint range="-1 1"/><geom size="0.1"/></body>'
    with pytest.raises(ValueError, match=r"ends in 2 links: b5 \(5 joints\), door \(1 joints\)"):
        read_arm(saved(tmp_path, mjcf().replace("<worldbody>", f"<worldbody>{door}")))


def test_no_arm_at_all(tmp_path: Path) -> None:
    hand = f'<mujoco><worldbody><body name="palm">{"".join(SLIDES)}</body></worldbody></mujoco>'
    with pytest.raises(ValueError, match="has no arm: all its joints are of fingers"):
        read_arm(saved(tmp_path, hand))
    with pytest.raises(ValueError, match="has no arm: it has no joint"):
        read_arm(saved(tmp_path, "<mujoco><worldbody><body/></worldbody></mujoco>"))
    floats = mjcf().replace('<body name="root">', '<body name="root"><freejoint name="base"/><geom size="0.1"/>')
    with pytest.raises(
        ValueError, match=r"joint 'base' is of the type 'free joint', but a serial arm .* and a fixed base"
    ):
        read_arm(saved(tmp_path, floats))


def test_a_long_list_of_ends_is_cut(tmp_path: Path) -> None:
    many = [hanging(f"end{i:03}", f"j{i}", "-3", "3") for i in range(200)]
    with pytest.raises(ValueError, match=r"ends in 200 links: .* and 180 more") as raised:
        read_arm(saved(tmp_path, urdf(*many)))
    assert len(str(raised.value)) < 2000
