"""How the makers of recordings name and measure what a policy sees and does.

A policy is shown the simulation as its recording would have shown it, and its actions are read as that recording's:
columns, frames, the way pictures lie and how they are lit. Dialects are told apart by the names that they use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from action_heads_lab.sim.frames import TCP_IN_SITE, Pose, rotation_from_6d, rotation_to_6d, rotation_vector

if TYPE_CHECKING:
    from action_heads_lab.sim.envs import Sim

AGENT, WRIST = "agentview", "robot0_eye_in_hand"  # robosuite's names


@dataclass(frozen=True)
class Dialect:
    """One way to write recordings.

    Attributes:
        state: columns of numbers that the simulation can show.
        show: what they are now, by name; more than these do no harm.
        action: what the column of actions may be called.
        layout: of actions, see `layouts.py`.
        arm: the columns of the arm alone, which a policy with cameras is shown.
        cameras: name -> robosuite's; None if they are robosuite's own.
        of_site: actions are of the controller's site in the world; otherwise of the TCP in the base frame.
        mirrored: pictures are mirrored, left for right.
        upside_down: pictures stand on their heads, as OpenGL makes them.
        fast: pictures without shadows, reflections and anti-aliasing.
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
        """Whether it has all these columns and cameras; names of cameras must be used to be known by them."""
        seen = self.cameras is None or (bool(cameras) and set(cameras) <= set(self.cameras))
        return seen and set(state) <= set(self.state)

    def picture(self, sim: Sim, size: int, camera: str) -> np.ndarray:
        """(size, size, 3) uint8."""
        seen = sim.render(size, camera if self.cameras is None else self.cameras[camera])
        seen = seen[::-1] if self.upside_down else seen
        return np.ascontiguousarray(seen[:, ::-1] if self.mirrored else seen)

    def target(self, sim: Sim, action: np.ndarray, delta: bool) -> np.ndarray:
        """What an action (10,), or a delta from where the hand is, means to `Sim.step`: a target (10,)."""
        if not self.of_site:
            return moved(sim.tcp, action) if delta else action
        sim.mujoco.forward()  # poses are those before the last 2 ms; robosuite starts from those of now
        there = moved(sim.controlled, action) if delta else action
        tcp = sim.from_world(Pose(there[:3], rotation_from_6d(there[3:9]))) @ TCP_IN_SITE
        return np.concatenate([tcp.p, rotation_to_6d(tcp.R), action[9:]])


def moved(hand: Pose, action: np.ndarray) -> np.ndarray:
    """The target (10,) that a delta (10,) means where the hand is; both along and about the axes of its frame."""
    turn = rotation_from_6d(action[3:9])
    return np.concatenate([hand.p + action[:3], rotation_to_6d(turn @ hand.R), action[9:]])


def columns(observation: np.ndarray, joint_position: np.ndarray) -> dict[str, np.ndarray]:
    """Observations (... o) and joints (... j) as the columns of `action-heads record`, see dataset.py."""
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
    """As robosuite observes: in the world, and turned as the body `right_hand`, a quarter turn off the site."""
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
    # MimicGen's demonstrations as the paper's authors put them on the Hub
    "mimicgen": Dialect(
        state=("observation.eePose",),
        show=_of_the_paper,
        action=("actions",),
        layout="position axis_angle gripper",
        arm=("observation.eePose",),
        cameras={"observation.image": AGENT, "observation.wrist_image": WRIST},
    ),
    # LIBERO in LeRobot's format: the paper's authors', OpenVLA's, openpi's and others
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
    # LIBERO's own HDF5, whose pictures are as OpenGL makes them
    "libero_hdf5": Dialect(
        state=("ee_pos", "ee_ori", "gripper_states", "joint_states"),
        show=_libero_hdf5,
        action=("actions",),
        layout="libero",
        arm=("ee_pos", "ee_ori", "gripper_states", "joint_states"),
        cameras={"agentview": AGENT, "eye_in_hand": WRIST},
        upside_down=True,
    ),
    # what `action-heads record` writes
    "own": Dialect(
        state=(
            "observation.state",
            "observation.environment_state",
            "observation.joint_position",
            "observation.eef",
            "observation.gripper",
        ),
        show=_own,
        action=("action", "action.delta"),
        layout="pose_6d",
        arm=("observation.eef", "observation.gripper"),
        of_site=False,
        fast=True,
    ),
    # robomimic's and MimicGen's own HDF5
    "robomimic": Dialect(
        state=("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_joint_pos"),
        show=_robosuite,
        action=("actions",),
        layout="libero",
        arm=("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ),
}


def dialect_of(state: Collection[str], cameras: Collection[str], action: str) -> str:
    """The name of the dialect that has these columns, cameras and, where that leaves a choice, this action."""
    fitting = [name for name, dialect in DIALECTS.items() if dialect.has(state, cameras)]
    if not fitting:
        known = "; ".join(
            f"{name}: {', '.join(one.state)}, cameras {', '.join(one.cameras or ['as robosuite calls them'])}"
            for name, one in DIALECTS.items()
        )
        raise ValueError(
            f"the policy sees {', '.join([*state, *cameras])}, which the simulation does not tell together; it has, "
            f"by dialect, {known}. Choose whole columns of one of these with --state, or train without --task"
        )
    return next((name for name in fitting if action in DIALECTS[name].action), fitting[0])
