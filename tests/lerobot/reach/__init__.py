"""A task for LeRobot: see at which of six places a disc lies, move the hand there and close the gripper.

The tests and `benchmarks/lerobot_success.py` use it.

Actions are those of LIBERO: (7,) in [-1, 1], a step of the hand in units of 5 cm, a turn, and the gripper, -1 open and
+1 closed. Closing the gripper ends the episode, as a success within 6 cm of the disc and as a failure elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE

SIZE = 48  # pixels a side, if nothing else is said
LOW, HIGH = np.array([0.3, -0.2, 0.02]), np.array([0.7, 0.2, 0.4])  # m, of the hand
PLACES = [(x, y) for x in (0.36, 0.5, 0.64) for y in (-0.12, 0.12)]  # m, of the disc
UNIT, REACHED = 0.05, 0.06  # m; places are 14 cm apart
TASK = "close the gripper on the red disc"


class Reach(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    task_description = TASK

    def __init__(self, render_mode: str = "rgb_array", size: int = SIZE):
        self.render_mode, self.size = render_mode, size
        self.action_space = gym.spaces.Box(-1, 1, (7,), np.float32)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Box(0, 255, (size, size, 3), np.uint8),
                "agent_pos": gym.spaces.Box(-1, 1, (4,), np.float32),
            }
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.disc = np.array(PLACES[self.np_random.integers(len(PLACES))])
        self.hand = self.np_random.uniform([0.45, -0.05, 0.25], [0.55, 0.05, 0.35])
        return self._observe(), {}

    def step(self, action):
        self.hand = np.clip(self.hand + UNIT * np.clip(action[:3], -1, 1), LOW, HIGH)
        closed = bool(action[6] > 0)
        success = bool(closed and np.linalg.norm(self.hand - self.target) < REACHED)
        return self._observe(), float(success), closed, False, {"is_success": success}

    @property
    def target(self) -> np.ndarray:
        return np.array([*self.disc, LOW[2]])

    def expert(self) -> np.ndarray:
        """Return an action straight to the disc, at most 4 cm long, or one that closes the gripper there."""
        way = self.target - self.hand
        step = way * min(1, 0.04 / max(np.linalg.norm(way), 1e-9))
        there = np.linalg.norm(way) < 1e-3
        return np.array([*step / UNIT, 0, 0, 0, 1 if there else -1], np.float32)

    def render(self) -> np.ndarray:
        """Draw the scene from above: the disc in red, and the hand in blue, larger the higher it is."""
        image = np.full((self.size, self.size, 3), 230, np.uint8)
        rows, columns = np.mgrid[: self.size, : self.size] * (SIZE / self.size)
        for where, radius, colour in (
            (self.disc, 6, (220, 30, 30)),
            (self.hand[:2], 1 + 4 * self.hand[2], (30, 30, 220)),
        ):
            row, column = (where - LOW[:2]) / (HIGH[:2] - LOW[:2]) * SIZE
            image[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = colour
        return image

    def _observe(self) -> dict[str, np.ndarray]:
        return {"pixels": self.render(), "agent_pos": np.array([*self.hand, -1], np.float32)}


gym.register("gym_reach/Reach-v0", Reach)


@EnvConfig.register_subclass("reach")
@dataclass
class ReachEnv(EnvConfig):
    task: str | None = "Reach-v0"
    fps: int = 10
    episode_length: int = 30
    size: int = SIZE
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(FeatureType.ACTION, (7,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (4,)),
            "pixels": PolicyFeature(FeatureType.VISUAL, (SIZE, SIZE, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {ACTION: ACTION, "agent_pos": OBS_STATE, "pixels": OBS_IMAGE}
    )

    def __post_init__(self) -> None:
        self.features["pixels"] = PolicyFeature(FeatureType.VISUAL, (self.size, self.size, 3))

    @property
    def gym_kwargs(self) -> dict:
        return {"max_episode_steps": self.episode_length, "size": self.size}


def record(folder: Path, episodes: int, seed: int = 0, size: int = SIZE) -> Path:
    """Record the expert as a LeRobotDataset with images. Episode i starts with `reset(seed=seed + i)`."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    image = {"dtype": "image", "shape": (size, size, 3), "names": ["height", "width", "channel"]}
    features = {
        OBS_IMAGE: image,
        OBS_STATE: {"dtype": "float32", "shape": (4,), "names": None},
        ACTION: {"dtype": "float32", "shape": (7,), "names": None},
    }
    dataset = LeRobotDataset.create("test/reach", fps=10, features=features, root=folder, use_videos=False)
    env = Reach(size=size)
    for episode in range(episodes):
        (seen, _), done = env.reset(seed=seed + episode), False
        while not done:
            action = env.expert()
            dataset.add_frame({OBS_IMAGE: seen["pixels"], OBS_STATE: seen["agent_pos"], ACTION: action, "task": TASK})
            seen, _, done, _, _ = env.step(action)
        dataset.save_episode()
    dataset.finalize()
    return folder
