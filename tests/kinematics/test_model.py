"""Arms that are read from files move as in Pinocchio, MuJoCo and our own Panda.

Axes: `n` postures, `j` joints.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pin = pytest.importorskip("pinocchio")

from action_heads.kinematics import panda, pose_actions, synthetic_chunks  # noqa: E402
from action_heads.kinematics.model import CONTINUOUS, SPEED, read_arm  # noqa: E402

SIX = Path(__file__).parent / "data" / "six.urdf"

# A slanted axis, a slide and a keyframe; degrees only where the file says so.
MJCF = """
<mujoco model="tiny">
  <compiler angle="radian"/>
  <worldbody>
    <body name="root" pos="0 0 0.1">
      <body name="a" pos="0 0 0.2" quat="0.924 0 0 -0.383">
        <joint name="q1" axis="0 0 1" range="-2 2"/><geom size="0.05"/>
        <body name="b" pos="0.3 0 0" euler="0.3 -0.2 0.1">
          <joint name="q2" axis="1 1 0" range="-1 2"/><geom size="0.05"/>
          <body name="c" pos="0.2 0 0">
            <joint name="q3" type="slide" axis="0 0 1" range="0 0.4"/><geom size="0.05"/>
            <body name="d" pos="0 0.1 0"><joint name="q4" axis="0 1 0"/><geom size="0.05"/></body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <keyframe><key name="rest" qpos="0 0 0 0"/><key name="home" qpos="0.5 1 0.3 -0.4"/></keyframe>
</mujoco>
"""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def mjcf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.xml"
    path.write_text(MJCF)
    return path


def test_agrees_with_pinocchio() -> None:
    arm, model = read_arm(SIX), pin.buildModelFromUrdf(str(SIX))
    data, tip = model.createData(), model.getFrameId("hand")
    joints = synthetic_chunks(64, arm=arm, generator=seeded())[0][:, 0].double()
    position, matrix = arm.forward(joints, "hand")
    for i, (pan, lift, elbow, roll, bend, spin) in enumerate(joints.tolist()):
        # an endless joint is its cosine and sine
        full = np.array([pan, lift, elbow, np.cos(roll), np.sin(roll), bend, spin, 0, 0])
        pin.framesForwardKinematics(model, data, full)
        np.testing.assert_allclose(position[i], data.oMf[tip].translation, atol=1e-8)
        np.testing.assert_allclose(matrix[i], data.oMf[tip].rotation, atol=1e-8)


def test_agrees_with_mujoco(mjcf: Path) -> None:
    mujoco = pytest.importorskip("mujoco")
    arm, model = read_arm(mjcf), mujoco.MjModel.from_xml_path(str(mjcf))
    data = mujoco.MjData(model)
    joints = synthetic_chunks(32, arm=arm, generator=seeded())[0][:, 0].double()
    position, matrix = arm.forward(joints, "d")
    for i, posture in enumerate(joints.numpy()):
        data.qpos[:] = posture
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(position[i], data.body("d").xpos - data.body("root").xpos, atol=1e-6)
        np.testing.assert_allclose(matrix[i], data.body("d").xmat.reshape(3, 3), atol=1e-6)


def test_reads_the_panda_as_we_know_it() -> None:
    robosuite = find_spec("robosuite")
    if robosuite is None:
        pytest.skip("the sim extra carries a URDF of the Panda")
    folder = Path(robosuite.origin).parent / "models/assets/bullet_data/panda_description/urdf"
    arm = read_arm(folder / "panda_arm_hand.urdf", "panda_link8")
    torch.testing.assert_close(arm.lower, panda.JOINT_MIN)
    torch.testing.assert_close(arm.upper, panda.JOINT_MAX)
    torch.testing.assert_close(arm.velocity, panda.VELOCITY_MAX)
    joints = synthetic_chunks(64, generator=seeded())[0].double()
    for ours, known in zip(arm.forward(joints, "panda_link8"), panda.forward(joints, "flange"), strict=True):
        torch.testing.assert_close(ours, known, atol=1e-6, rtol=0)
    assert read_arm(folder / "panda_arm_hand.urdf").frame == "panda_hand"  # fingers are not the arm


def test_limits_and_their_defaults() -> None:
    arm = read_arm(SIX)
    assert len(arm) == 6
    assert arm.continuous == (False, False, False, True, False, False)
    torch.testing.assert_close(arm.lower, torch.tensor([-2.9, -1.7, -2.5, -CONTINUOUS, -2.0, -3.1]))
    torch.testing.assert_close(arm.velocity, torch.tensor([2.5, 1.5, 2.5, 3.2, SPEED, 4.0]))
    torch.testing.assert_close(arm.home, (arm.lower + arm.upper) / 2)
    beyond = arm.upper + 1
    assert arm.within_limits(beyond).tolist() == [False, False, False, True, False, False]
    assert arm.within_limits(beyond, tolerance=1.01).all()


def test_home_is_the_keyframe_of_that_name(mjcf: Path) -> None:
    torch.testing.assert_close(read_arm(mjcf).home, torch.tensor([0.5, 1.0, 0.3, -0.4]))


@pytest.mark.parametrize("rate_hz", [15.0, 500.0])
def test_synthetic_motion_keeps_an_arm_s_limits(rate_hz: float) -> None:
    arm = read_arm(SIX)
    joints, gripper = synthetic_chunks(2048, rate_hz=rate_hz, generator=seeded(), arm=arm)
    assert joints.shape == (2048, 16, 6)
    assert ((joints >= arm.lower) & (joints <= arm.upper)).all()
    assert (joints.diff(dim=1).abs() * rate_hz <= arm.velocity + 1e-6 * rate_hz).all()
    actions = pose_actions(joints, gripper, arm=arm)
    assert actions.shape == (2048, 16, 10)
    assert actions[..., :3].norm(dim=-1).max() < 1.5


def test_one_posture_and_gradients() -> None:
    arm = read_arm(SIX)
    joints = synthetic_chunks(2, arm=arm, generator=seeded())[0].double()
    position, matrix = arm.forward(joints, "hand")
    one = arm.forward(joints[0, 0], "hand")
    torch.testing.assert_close(one[0], position[0, 0])
    torch.testing.assert_close(one[1], matrix[0, 0])
    assert torch.autograd.gradcheck(lambda q: arm.forward(q, "hand"), joints[:, 0].requires_grad_())


def test_a_tip_by_name_ends_the_chain_there() -> None:
    arm = read_arm(SIX, "wrist1")
    assert (len(arm), arm.frame) == (4, "wrist1")


def test_a_tip_is_a_link_though_a_joint_has_its_name(tmp_path: Path) -> None:
    """A tip that names both a link and a joint, fixed or moving, means the link."""
    assert read_arm(edited(tmp_path, '"mount"', '"hand"'), "hand").frame == "hand"
    arm, known = read_arm(edited(tmp_path, 'joint name="bend"', 'joint name="fore"'), "fore"), read_arm(SIX, "fore")
    assert len(arm) == len(known) == 3


def edited(tmp_path: Path, old: str, new: str) -> Path:
    path = tmp_path / "edited.urdf"
    text = SIX.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_errors_teach(tmp_path: Path, mjcf: Path) -> None:
    camera = '<link name="camera"/><joint name="m" type="fixed"><parent link="wrist3"/><child link="camera"/></joint>'
    with pytest.raises(ValueError, match=r"2 links: camera \(6 joints\), hand \(6 joints\). .*\?tip=NAME"):
        read_arm(edited(tmp_path, "</robot>", camera + "</robot>"))
    with pytest.raises(ValueError, match=r"no frame 'tool0'; its links are base, turret"):
        read_arm(SIX, "tool0")
    with pytest.raises(ValueError, match="no joint moves 'base'"):
        read_arm(SIX, "base")
    with pytest.raises(ValueError, match=r"must be a .urdf file or .* ends in '\.stl'"):
        read_arm("arm.stl")
    with pytest.raises(FileNotFoundError, match="URDF or MJCF"):
        read_arm(tmp_path / "none.urdf")
    with pytest.raises(ValueError, match="cannot be read as URDF"):
        read_arm(edited(tmp_path, "<robot", "<rabbit"))
    for limits in ('lower="0.3" upper="0.3"', ""):
        value = "0.3" if limits else "0"
        stuck = rf"joint 'elbow' has {value} as both .*Make it fixed .*make it continuous .*or give it limits"
        with pytest.raises(ValueError, match=stuck):
            read_arm(edited(tmp_path, 'lower="-2.5" upper="0.1"', limits))
    with pytest.raises(ValueError, match="fixed"):
        read_arm(edited(tmp_path, '"bend" type="revolute"', '"bend" type="floating"'))
    degrees = mjcf.with_name("degrees.xml")
    degrees.write_text(MJCF.replace('<compiler angle="radian"/>', ""))
    with pytest.raises(ValueError, match='compiler angle="radian"'):
        read_arm(degrees)
    arm = read_arm(SIX)
    with pytest.raises(ValueError, match=r"\(2, 7\).*\(\.\.\., 6\)"):
        arm.forward(torch.zeros(2, 7), arm.frame)
    with pytest.raises(ValueError, match=r"'flange'.*'hand'"):
        arm.forward(torch.zeros(6), "flange")
