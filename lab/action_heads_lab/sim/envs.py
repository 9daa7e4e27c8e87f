"""A simulated robosuite environment that takes absolute targets of the TCP and returns a state vector, at 20 Hz.

Axes: o observation size, `Task.observation_size` (Lift 23, Stack 35), j joints of the arm, h ticks of a chunk.

An action (10,) is a target of the TCP in the ROBOT BASE frame, see frames.py:
    0:3   position, m
    3:9   rotation, the first two rows of the matrix
    9     gripper, -1 opens, +1 closes
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads._util.extras import require
from action_heads_lab.sim import compiled, substeps
from action_heads_lab.sim.frames import TCP_IN_SITE, Pose, rotation_from_6d, rotation_to_6d
from action_heads_lab.sim.task import Task

CONTROL_HZ = 20
ACTION_SIZE = 10
# Rendering of images without reflections of the floor, shadows and anti-aliasing, which is five times faster on a CPU.
FAST_RENDERING = {"offsamples": 0, "shadows": False, "reflections": False}


class Sim:
    """One environment. Poses are in the robot base frame."""

    instruction = ""  # of the running episode, in tasks that have several

    def __init__(self, task: Task, env, can_render: bool, fast: bool):
        self.task, self.env, self.can_render, self.fast = task, env, can_render, fast

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode of `seed`, and return the observation (o,)."""
        state = np.random.get_state()  # noqa: NPY002  robosuite 1.4 draws from numpy's global generator
        np.random.seed(seed)  # noqa: NPY002
        try:
            with compiled.once(self.can_render and self.fast):
                self._restart(seed)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        self.robot, self.mujoco = self.env.robots[0], self.env.sim  # a reset replaces the model
        self.base_in_world = self._body("robot0_base")
        if self.can_render and self.fast:
            _render_fast(self.mujoco)
        return self.observe()

    def _restart(self, seed: int) -> None:
        self.env.reset()

    def _body(self, name: str) -> Pose:
        data, i = self.mujoco.data, self.mujoco.model.body_name2id(name)
        return Pose(np.array(data.body_xpos[i]), np.array(data.body_xmat[i]).reshape(3, 3))

    def _site(self, name: str) -> Pose:
        data, i = self.mujoco.data, self.mujoco.model.site_name2id(name)
        return Pose(np.array(data.site_xpos[i]), np.array(data.site_xmat[i]).reshape(3, 3))

    def from_world(self, pose: Pose) -> Pose:
        """Convert a pose from the world frame to the base frame."""
        return self.base_in_world.inverse() @ pose

    def body(self, name: str) -> Pose:
        """Return the pose of a body in the base frame."""
        return self.from_world(self._body(name))

    def site(self, name: str) -> Pose:
        """Return the pose of a site in the base frame."""
        return self.from_world(self._site(name))

    @property
    def controlled(self) -> Pose:
        """The pose of the site that the controller moves, in the world frame."""
        return self._site("gripper0_grip_site")

    @property
    def hand_quaternion(self) -> np.ndarray:
        """The quaternion (4,) x y z w of the body `right_hand` in the world, robosuite's `robot0_eef_quat`."""
        return np.array(self.mujoco.data.get_body_xquat(self.robot.robot_model.eef_name))[[1, 2, 3, 0]]

    @property
    def tcp(self) -> Pose:
        """The pose of the TCP in the base frame."""
        # `robot0_eef_quat` of robosuite is that of `right_hand`, which is 90 degrees off the site of the controller.
        return self.from_world(self.controlled) @ TCP_IN_SITE

    @property
    def joint_position(self) -> np.ndarray:
        """The joint positions (j,) in rad: 7 for the Panda, 6 for the UR5e."""
        return np.array(self.robot._joint_positions)

    @property
    def fingers(self) -> np.ndarray:
        """The two finger joints (2,) in m: (0.04, -0.04) when open, (0, 0) when closed."""
        return np.array(self.mujoco.data.qpos[self.robot._ref_gripper_joint_pos_indexes])

    def observe(self) -> np.ndarray:
        """Return the observation (o,) float32, laid out as `Task.observation_size` says.

        Offsets from the TCP are along the axes of the base.
        """
        tcp = self.tcp
        parts = [tcp.p, rotation_to_6d(tcp.R), self.fingers]
        for name in self.task.objects:
            thing = self.body(name)
            parts += [thing.p, rotation_to_6d(thing.R), thing.p - tcp.p]
        return np.concatenate(parts).astype(np.float32)

    def success(self) -> bool:
        """Return whether the task is solved."""
        return bool(self.env._check_success())

    def failed(self) -> bool:
        """Return whether the episode can no longer succeed, so that a rollout ends."""
        return False

    def step(self, action: np.ndarray) -> np.ndarray:
        """Move towards the target `action` (10,) for one tick (50 ms), and return the observation (o,)."""
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(f"an action must be 10 finite numbers (position 3, rotation 6, gripper), got {action}")
        site = self.controlled_target(action)  # the controller takes a pose of its site in the world
        close = 1.0 if action[9] > 0 else -1.0  # the gripper only opens or closes
        substeps.step(self.env, np.concatenate([site.p, Rotation.from_matrix(site.R).as_rotvec(), [close]]))
        return self.observe()

    def controlled_target(self, action: np.ndarray) -> Pose:
        """Return the target of the controller's site, in the world, for an action (10,)."""
        return self.base_in_world @ Pose(action[:3], rotation_from_6d(action[3:9])) @ TCP_IN_SITE.inverse()

    def at_joints(self, targets: np.ndarray) -> np.ndarray:
        """Convert targets of joints and gripper (h, j + 1), in rad, to actions (h, 10) by forward kinematics."""
        targets, joints = np.asarray(targets, np.float64), self.robot._ref_joint_pos_indexes
        if targets.ndim != 2 or targets.shape[1] != len(joints) + 1:
            raise ValueError(
                f"expected (h, {len(joints) + 1}): {len(joints)} joints and the gripper, got {targets.shape}"
            )
        mujoco = require("mujoco", extra="sim")
        model = self.mujoco.model._model
        data, site = mujoco.MjData(model), self.mujoco.model.site_name2id("gripper0_grip_site")
        actions = []
        for target in targets:
            data.qpos[joints] = target[:-1]
            mujoco.mj_kinematics(model, data)
            there = self.from_world(Pose(data.site_xpos[site], data.site_xmat[site].reshape(3, 3))) @ TCP_IN_SITE
            actions.append(np.concatenate([there.p, rotation_to_6d(there.R), target[-1:]]))
        return np.array(actions)

    def render(self, size: int = 256, camera: str = "agentview") -> np.ndarray:
        """Return an image (size, size, 3), uint8 RGB."""
        if not self.can_render:
            raise RuntimeError("this Sim cannot render. Make it with make(..., render=True)")
        return self.mujoco.render(camera_name=camera, width=size, height=size)[::-1]  # OpenGL starts at the bottom

    def close(self):
        """Close the environment."""
        self.env.close()


def _render_fast(sim):
    """Render without shadows and reflections of the floor. `compiled.once` leaves out anti-aliasing.

    This is five times faster on a CPU, and images change by less than one grey level on average. Use the same rendering
    for recording and evaluation.
    """
    from mujoco import mjtRndFlag  # pyright: ignore[reportAttributeAccessIssue]  mujoco is a binary module

    for flag in (mjtRndFlag.mjRND_SHADOW, mjtRndFlag.mjRND_REFLECTION):
        sim._render_context_offscreen.scn.flags[flag] = 0
