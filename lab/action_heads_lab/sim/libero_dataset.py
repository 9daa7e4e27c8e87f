"""Write demonstrations in LIBERO's own columns, as `lerobot-eval --env.type=libero` gives them to a policy.

Axes: t ticks of an episode.

    observation.images.image    (size, size, 3) RGB, agentview
    observation.images.image2   the same, robot0_eye_in_hand
    observation.state           (8,) of the hand: position 3 (m, world), rotation vector 3 (rad), finger joints 2 (m)
    action                      (7,) in [-1, 1]: 5 cm, half a radian about the axes of the world, gripper (+1 closes)

The dataset also has the task description. Note three conventions. Images are turned by half a turn from those of
OpenGL, as in LeRobot and in LIBERO's data, so they are upright but mirrored. The rotation is that of the body
`right_hand`, a quarter turn about z off the frame of the actions. The observations are those of robosuite, which may be
2 ms old. Their images have shadows, reflections and anti-aliasing, as in `lerobot-eval`, so they are slow to render.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads_lab.sim import libero
from action_heads_lab.sim.again import Recorded, run_again
from action_heads_lab.sim.arm import MAX_STEP, MAX_TURN
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.frames import Pose, rotation_vector
from action_heads_lab.sim.lerobot_file import Columns, image_feature, provenance_of, write

CAMERAS = {
    "observation.images.image": "agentview_image",
    "observation.images.image2": "robot0_eye_in_hand_image",
}
STATE = ["x", "y", "z", "rx", "ry", "rz", "finger_left", "finger_right"]
ACTION = ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]


def save_libero(
    demonstrations: Demonstrations, folder: str | Path, size: int = 256, workers: int | None = None
) -> Path:
    """Write a new folder. Every episode is run again to render its images of `size` by `size` pixels, see `again`."""
    provenance = provenance_of(
        demonstrations, list(CAMERAS), size, rendering={"offsamples": 4, "shadows": True, "reflections": True}
    )
    provenance["frame"] = "LIBERO's: world; states of right_hand, actions of the controller's site"
    episodes = run_again(demonstrations, workers, Episodes, demonstrations.task, size)
    return write(folder, _features(size), episodes, provenance)


def observed(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the observations of robosuite to those of a policy: images uint8, state (8,) float32."""
    state = [raw["robot0_eef_pos"], rotation_vector(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"]]
    seen = {name: np.ascontiguousarray(raw[camera][::-1, ::-1]) for name, camera in CAMERAS.items()}
    return seen | {"observation.state": np.concatenate(state).astype(np.float32)}


def relative(now: Pose, target: Pose, gripper: float) -> np.ndarray:
    """Return the command (7,) that moves the controller's site from one pose towards another, within one step."""
    step = (target.p - now.p) / MAX_STEP
    turn = Rotation.from_matrix(target.R @ now.R.T).as_rotvec() / MAX_TURN
    return np.clip(np.concatenate([step, turn, [gripper]]), -1, 1).astype(np.float32)


class Episodes:
    """A renderer: a map from an episode to its sentence and columns."""

    def __init__(self, task: str, size: int):
        self.sim = libero.make(task, pixels=size)

    def __call__(self, episode: Recorded) -> tuple[str, Columns]:
        seen: list[dict[str, np.ndarray]] = []
        poses: list[Pose] = []

        def look() -> None:
            seen.append(observed(self.sim.raw()))
            poses.append(self.sim.controlled)

        episode.run(self.sim, look)
        actions = [
            relative(pose, self.sim.controlled_target(action.astype(float)), float(action[9]))
            for pose, action in zip(poses, episode.action, strict=True)
        ]
        return self.sim.language, {name: [tick[name] for tick in seen] for name in seen[0]} | {"action": actions}

    def close(self) -> None:
        """Close the environment."""
        self.sim.close()


def _features(size: int) -> dict[str, Any]:
    numbers = {"observation.state": STATE, "action": ACTION}
    return {name: image_feature(size) for name in CAMERAS} | {
        name: {"dtype": "float32", "shape": (len(names),), "names": names} for name, names in numbers.items()
    }
