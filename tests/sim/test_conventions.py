"""Observations and actions of each dialect agree with those of robosuite."""

import numpy as np
import pytest
import torch
from action_heads_lab.sim import make
from action_heads_lab.sim.conventions import DIALECTS, dialect_of
from action_heads_lab.sim.libero_dataset import relative
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.record import run_expert
from scipy.spatial.transform import Rotation

from action_heads.actions.layouts import ActionLayout

CAMERAS = {"observation.image": 84, "observation.wrist_image": 84}


@pytest.mark.sim
def test_columns_are_robosuites_own_observations(lift):
    lift.reset(seed=4)
    raw = lift.env._get_observations(force_update=True)
    shown = DIALECTS["robomimic"].show(lift)
    assert tuple(shown) == DIALECTS["robomimic"].state
    np.testing.assert_array_equal(shown.pop("robot0_joint_pos"), lift.joint_position)
    for name, values in shown.items():
        np.testing.assert_allclose(values, raw[name], atol=1e-12)
    pose = DIALECTS["mimicgen"].show(lift)["observation.eePose"]
    np.testing.assert_allclose(pose, np.concatenate([raw[name] for name in shown]), atol=1e-12)
    state = Sight(("observation.state",), dialect="libero").look(lift)["state"]
    assert state.shape == (8,)
    assert state.dtype == np.float32
    turn = Rotation.from_rotvec(state[3:6]) * Rotation.from_quat(raw["robot0_eef_quat"]).inv()
    assert turn.magnitude() < 1e-6


@pytest.mark.sim
@pytest.mark.parametrize("dialect", ["robomimic", "libero", "mimicgen"])
def test_actions_lead_where_robosuite_leads_them(lift, dialect):
    """Actions reach the pose that robosuite's own controller reaches, in delta and absolute mode."""
    controller = lift.reset(seed=4) is not None and lift.env.robots[0].controller
    rng = np.random.default_rng(0)
    written = rng.uniform(-1, 1, (6, 7)) * [1, 1, 0.5, 0.2, 0.2, 0.5, 1]
    written[:, 6] = np.sign(written[:, 6])
    layout = ActionLayout.parse(DIALECTS[dialect].layout)
    delta = layout.space().mode == "delta"
    assert delta == (dialect != "mimicgen")
    if not delta:
        written[:, :3] = controller.ee_pos + 0.03 * written[:, :3]
        turns = Rotation.from_rotvec(0.3 * written[:, 3:6]) * Rotation.from_matrix(controller.ee_ori_mat)
        written[:, 3:6] = turns.as_rotvec()

    controller.use_delta = delta
    for action in written:
        lift.env.step(action)
    theirs = lift.joint_position

    lift.reset(seed=4)
    sight = Sight(delta=delta, dialect=dialect)
    for action in layout.encode(torch.from_numpy(written)).numpy().astype(float):
        lift.step(sight.target(lift, action))
    np.testing.assert_allclose(lift.joint_position, theirs, atol=1e-5)


@pytest.mark.sim
@pytest.mark.parametrize("dialect", ["robomimic", "mimicgen"])
def test_a_demonstration_in_their_words_succeeds_again(lift, dialect):
    """A Lift of the expert, written and read in the dialect and executed, succeeds."""
    layout = ActionLayout.parse(DIALECTS[dialect].layout)
    delta, hands = layout.space().mode == "delta", []

    def look():
        lift.mujoco.forward()
        hands.append(lift.controlled)

    episode = run_expert(lift, 10_004, before_step=look)
    assert episode.success
    written = []
    for hand, action in zip(hands, episode.action.astype(float), strict=True):
        there = lift.controlled_target(action)
        absolute = np.concatenate([there.p, Rotation.from_matrix(there.R).as_rotvec(), action[9:]])
        written.append(relative(hand, there, action[9]) if delta else absolute)
    lift.reset(10_004)
    sight = Sight(delta=delta, dialect=dialect)
    for action in layout.encode(torch.from_numpy(np.array(written, np.float32))).numpy().astype(float):
        lift.step(sight.target(lift, action))
    assert lift.success()


@pytest.mark.sim
@pytest.mark.slow
def test_images_lie_as_their_recordings_have_them():
    """Images of MimicGen are upright, those of LIBERO upright and mirrored. Neither uses the fast rendering."""
    sim = make("Lift", render=True, fast=False)
    sim.reset(seed=4)
    upright = Sight(cameras=CAMERAS, dialect="mimicgen").look(sim)
    mirrored = Sight(cameras=CAMERAS, dialect="libero").look(sim)
    raw = {
        "observation.image": sim.mujoco.render(camera_name="agentview", width=84, height=84),
        "observation.wrist_image": sim.mujoco.render(camera_name="robot0_eye_in_hand", width=84, height=84),
    }
    for name, image in raw.items():
        assert np.array_equal(upright[name], image[::-1])
        assert np.array_equal(mirrored[name], image[::-1, ::-1])
    quick = make("Lift", render=True)
    quick.reset(seed=4)
    assert not np.array_equal(quick.render(84), upright["observation.image"])
    sim.close()
    quick.close()


@pytest.mark.parametrize(
    ("state", "cameras", "action", "layout", "expected"),
    [
        (["observation.eef", "observation.gripper"], ["agentview"], "action", "pose_6d", "own"),
        (["observation.eef"], ["agentview"], "actions", "pose_6d", "own"),
        (["robot0_eef_pos", "robot0_gripper_qpos"], ["agentview"], "actions", "libero", "robomimic"),
        ([], ["agentview", "robot0_eye_in_hand"], "actions", "libero", "robomimic"),
        ([], ["agentview", "robot0_eye_in_hand"], "actions", "pose_6d", "own"),
        ([], ["agentview"], "actions", "pose_6d", "own"),
        ([], ["agentview", "eye_in_hand"], "actions", "libero", "libero_hdf5"),
        ([], ["agentview", "robot0_eye_in_hand"], "action", "pose_6d", "own"),
        ([], ["agentview", "robot0_eye_in_hand"], "action.delta", "delta", "own"),
        ([], list(CAMERAS), "actions", "position axis_angle gripper", "mimicgen"),
        ([], list(CAMERAS), "actions", "delta: position*0.05 axis_angle*0.5 gripper", "libero"),
        (["observation.eePose"], list(CAMERAS), "actions", "position axis_angle gripper", "mimicgen"),
        (["observation.state"], list(CAMERAS), "actions", "libero", "libero"),
        (["observation.state"], ["image", "image2"], "action", "libero", "libero"),
        (["observation.state"], [], "action", "pose_6d", "own"),
    ],
)
def test_dialects_are_told_apart_by_their_names_and_actions(state, cameras, action, layout, expected):
    assert dialect_of(state, cameras, action, layout) == expected


@pytest.mark.parametrize("layout", ["libero", "delta"])
def test_a_dialect_is_not_guessed(layout):
    """LIBERO's HDF5 has images upside down and robomimic's upright, with cameras and actions of the same names."""
    with pytest.raises(
        ValueError, match=r"agentview, which recordings of several kinds have: libero_hdf5, own, robomim"
    ):
        dialect_of([], ["agentview"], "actions", layout)


def test_a_mixture_is_refused():
    with pytest.raises(
        ValueError, match=r"observation.eef, robot0_eef_pos, front, but the simulation cannot provide these"
    ):
        dialect_of(["observation.eef", "robot0_eef_pos"], ["front"], "action", "pose_6d")


class Camera:
    """A simulation that only renders, whatever the camera."""

    def render(self, size, camera):
        return np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3)


def test_libero_s_own_files_and_openpi_s_are_known():
    """LIBERO's HDF5 keeps images as OpenGL renders them, and in LeRobot's format they are turned by half a turn."""
    state = ("ee_pos", "ee_ori", "gripper_states", "joint_states")
    assert dialect_of(state, {"agentview", "eye_in_hand"}, "actions", "libero") == "libero_hdf5"
    assert dialect_of(("state",), {"image", "wrist_image"}, "actions", "libero") == "libero"
    raw = DIALECTS["libero_hdf5"].image(Camera(), 4, "agentview")
    np.testing.assert_array_equal(raw, Camera().render(4, "")[::-1])
    np.testing.assert_array_equal(DIALECTS["libero"].image(Camera(), 4, "image"), raw[::-1, ::-1])


@pytest.mark.sim
def test_libero_s_columns_make_up_the_state_of_its_other_form(lift):
    lift.reset(seed=4)
    parts, state = DIALECTS["libero_hdf5"].show(lift), DIALECTS["libero"].show(lift)
    joined = np.concatenate([parts[name] for name in ("ee_pos", "ee_ori", "gripper_states")])
    for name in ("observation.state", "state"):
        np.testing.assert_array_equal(state[name], joined)
    np.testing.assert_array_equal(parts["joint_states"], lift.joint_position)
