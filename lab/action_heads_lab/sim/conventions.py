"""Dialects of recordings: their names, frames and units of observations and actions.

A policy gets the observations of the simulation as its recording has them, and its actions are read as those of the
recording: columns, frames, orientation and lighting of images. The names of columns and cameras identify a dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from action_heads_lab.sim.frames import TCP_IN_SITE, Pose, rotation_from_6d, rotation_to_6d, rotation_vector

if TYPE_CHECKING:
    from action_heads_lab.sim.envs import Sim

AGENT, WRIST = "agentview", "robot0_eye_in_hand"  # names of robosuite


@dataclass(frozen=True)
class Dialect:
    """The conventions of one format of recordings.

    Attributes:
        state: state columns that the simulation can provide.
        show: function that returns their current values by name. It may return further columns.
        action: possible names of the action column.
        layout: layout of actions, see `action_heads.actions.layouts`.
        arm: columns of the arm, which a policy with cameras observes.
        cameras: camera name -> name in robosuite, or None if the names are those of robosuite.
        of_site: whether actions are of the site of the controller in the world, or of the TCP in the base frame.
        mirrored: whether left and right of images are swapped.
        upside_down: whether images are upside down, as OpenGL renders them.
        fast: whether images are rendered without shadows, reflections and anti-aliasing.
    """

    state: tuple[str, ...]
    show: Callable[[Sim], Mapping[str, np.ndarray]]
    action: tuple[str, ...]
    layout: str
    arm: tuple[str, ...]
    cameras: Mapping[str, str] | None = None
    of_site: bool = True
    mirrored: bool = False
    upside_down: bool = False
    fast: bool = False

    def has(self, state: Collection[str], cameras: Collection[str]) -> bool:
        """Return whether the dialect has all these columns and cameras.

        A dialect with camera names of its own is recognised only if cameras are given.
        """
        seen = bool(cameras) and set(cameras) <= set(self.cameras) if self.cameras else not {*cameras} & RENAMED
        return seen and set(state) <= set(self.state)

    def moves_as(self, layout: str) -> bool:
        """Return whether this is the layout of the dialect's actions, however it is spelled."""
        from action_heads.actions.layouts import ActionLayout  # It imports torch, which simulations do without.

        own, given = (ActionLayout.parse(text) for text in (self.layout, layout))
        return (given.parts, given.mode) == (own.parts, own.mode)

    def image(self, sim: Sim, size: int, camera: str) -> np.ndarray:
        """Return an image (size, size, 3) uint8."""
        seen = sim.render(size, camera if self.cameras is None else self.cameras[camera])
        seen = seen[::-1] if self.upside_down else seen
        return np.ascontiguousarray(seen[:, ::-1] if self.mirrored else seen)

    def target(self, sim: Sim, action: np.ndarray, delta: bool) -> np.ndarray:
        """Return the target (10,) for `Sim.step` of an action (10,), absolute or a delta from the pose of the hand."""
        if not self.of_site:
            return moved(sim.tcp, action) if delta else action
        sim.mujoco.forward()  # poses are 2 ms old, but robosuite starts from current ones
        there = moved(sim.controlled, action) if delta else action
        tcp = sim.from_world(Pose(there[:3], rotation_from_6d(there[3:9]))) @ TCP_IN_SITE
        return np.concatenate([tcp.p, rotation_to_6d(tcp.R), action[9:]])


def moved(hand: Pose, action: np.ndarray) -> np.ndarray:
    """Return the target (10,) of a delta (10,) from the pose of the hand, in the same frame."""
    turn = rotation_from_6d(action[3:9])
    return np.concatenate([hand.p + action[:3], rotation_to_6d(turn @ hand.R), action[9:]])


def columns(observation: np.ndarray, joint_position: np.ndarray) -> dict[str, np.ndarray]:
    """Return observations (... o) and joints (... j) as the columns of `action-heads record`, see dataset.py."""
    return {
        "observation.state": observation,
        "observation.environment_state": observation[..., 11:],
        "observation.joint_position": joint_position,
        "observation.eef": observation[..., :9],
        "observation.gripper": observation[..., 9:11],
    }


def _own(sim: Sim) -> Mapping[str, np.ndarray]:
    return columns(sim.observe(), sim.joint_position)


def _robosuite(sim: Sim) -> dict[str, np.ndarray]:
    """Return the observations of robosuite, in the world frame.

    The rotation is that of the body `right_hand`, a quarter turn off the site.
    """
    return {
        "robot0_eef_pos": sim.controlled.p,
        "robot0_eef_quat": sim.hand_quaternion,  # x y z w
        "robot0_gripper_qpos": sim.fingers,
        "robot0_joint_pos": sim.joint_position,
    }


def _of_the_paper(sim: Sim) -> dict[str, np.ndarray]:
    seen = _robosuite(sim)
    pose = [seen["robot0_eef_pos"], seen["robot0_eef_quat"], seen["robot0_gripper_qpos"]]
    return {"observation.eePose": np.concatenate(pose)}


def _libero_hdf5(sim: Sim) -> dict[str, np.ndarray]:
    return {
        "ee_pos": sim.controlled.p,
        "ee_ori": rotation_vector(sim.hand_quaternion),
        "gripper_states": sim.fingers,
        "joint_states": sim.joint_position,
    }


def _libero(sim: Sim) -> dict[str, np.ndarray]:
    seen = _libero_hdf5(sim)
    state = np.concatenate([seen["ee_pos"], seen["ee_ori"], seen["gripper_states"]])
    return {"observation.state": state, "state": state}


DIALECTS = {
    # MimicGen's demonstrations, as the authors of the paper uploaded them to the Hub
    "mimicgen": Dialect(
        state=("observation.eePose",),
        show=_of_the_paper,
        action=("actions",),
        layout="position axis_angle gripper",
        arm=("observation.eePose",),
        cameras={"observation.image": AGENT, "observation.wrist_image": WRIST},
    ),
    # LIBERO in LeRobot's format, by the authors of the paper, OpenVLA, openpi and others
    "libero": Dialect(
        state=("observation.state", "state"),
        show=_libero,
        action=("action", "actions"),
        layout="libero",
        arm=("observation.state",),
        cameras={
            "image": AGENT,
            "image2": WRIST,
            "observation.image": AGENT,
            "observation.wrist_image": WRIST,
            "wrist_image": WRIST,
        },
        mirrored=True,
    ),
    # LIBERO's own HDF5, with images as OpenGL renders them
    "libero_hdf5": Dialect(
        state=("ee_pos", "ee_ori", "gripper_states", "joint_states"),
        show=_libero_hdf5,
        action=("actions",),
        layout="libero",
        arm=("ee_pos", "ee_ori", "gripper_states", "joint_states"),
        cameras={"agentview": AGENT, "eye_in_hand": WRIST},
        upside_down=True,
    ),
    # recordings of `action-heads record`
    "own": Dialect(
        state=(
            "observation.state",
            "observation.environment_state",
            "observation.joint_position",
            "observation.eef",
            "observation.gripper",
        ),
        show=_own,
        action=("action", "action.delta", "actions"),  # the last in HDF5
        layout="pose_6d",
        arm=("observation.eef", "observation.gripper"),
        of_site=False,
        fast=True,
    ),
    # HDF5 of robomimic and MimicGen
    "robomimic": Dialect(
        state=("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_joint_pos"),
        show=_robosuite,
        action=("actions",),
        layout="libero",
        arm=("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ),
}

# Cameras that the simulator calls otherwise, so that recordings with its own names do not have them.
RENAMED = {name for one in DIALECTS.values() for name, here in (one.cameras or {}).items() if name != here}


def dialect_of(state: Collection[str], cameras: Collection[str], action: str, layout: str) -> str:
    """Return the name of the dialect with these columns and cameras.

    Between several, the name of the action column decides, and then its layout, since HDF5 files of several dialects
    name actions and cameras alike.

    Raises:
        ValueError: no dialect has them, or several have.
    """
    fitting = [name for name, dialect in DIALECTS.items() if dialect.has(state, cameras)]
    if not fitting:
        known = "; ".join(
            f"{name}: {', '.join(one.state)}, cameras {', '.join(one.cameras or ['with the names of robosuite'])}"
            for name, one in DIALECTS.items()
        )
        raise ValueError(
            f"the policy observes {', '.join([*state, *cameras])}, but the simulation cannot provide these columns "
            f"together. By dialect it has {known}. Choose columns of one dialect with --state, or train without --task"
        )
    found = [name for name in fitting if action in DIALECTS[name].action] or fitting
    if len(found) > 1:
        found = [name for name in found if DIALECTS[name].moves_as(layout)]
    if len(found) != 1:
        raise ValueError(
            f"the policy observes {', '.join([*state, *cameras])}, which recordings of several kinds have: "
            f"{', '.join(fitting)}. They differ in frames and in how images lie, and the action {action!r} of layout "
            f"{layout!r} does not decide between them. Choose columns that only one of them has with --state, or train "
            "without --task"
        )
    return found[0]
