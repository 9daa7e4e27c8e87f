"""A batch of LeRobot -> what `ObservationEncoder` reads, with the last few steps where LeRobot gives the present alone.

Axes: b batch, s observation steps, H and W pixels, d state.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from action_heads.encoders import ObservationConfig
from action_heads.lerobot.configuration_dae import DAEConfig

TASK = "task"


def settle(config: DAEConfig) -> ObservationConfig:
    """What is observed, by flags and dataset; what is not is taken out of the config's features."""
    config.cameras = list(config.image_features) if config.cameras is None else list(config.cameras)
    config.state = config.state and bool(config.state_features)
    used = {*config.cameras, *(config.state_features if config.state else ())}
    config.input_features = {key: ft for key, ft in (config.input_features or {}).items() if key in used}
    return ObservationConfig(
        cameras=tuple(config.cameras),
        state_dim=sum(config.state_features.values()) if config.state else 0,
        observation_steps=config.n_obs_steps,
        vision=config.vision,
        text=config.text,
    )


class Observations:
    """Remembers the last observations of an episode; repeats the first until there are enough."""

    def __init__(self, config: DAEConfig):
        self.config = config
        self.past: deque[dict[str, Tensor]] = deque(maxlen=config.n_obs_steps)

    @property
    def keys(self) -> list[str]:
        return [*(self.config.cameras or []), *(self.config.state_features if self.config.state else ())]

    def add(self, batch: dict[str, Any]) -> None:
        """One more step: images (b 3 H W), state (b d)."""
        self.check(batch)
        present = {key: batch[key] for key in self.keys}
        self.past.extend([present] * (1 if self.past else self.config.n_obs_steps))

    def stacked(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The remembered steps, with the present task."""
        steps = {key: torch.stack([step[key] for step in self.past], dim=1) for key in self.keys}
        return steps | {TASK: batch.get(TASK)}

    def with_steps(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch that has an axis of steps already, or its present repeated."""
        self.check(batch)
        steps = {key: self._with_steps(key, batch[key]) for key in self.keys}
        return steps | {TASK: batch.get(TASK)}

    def inputs(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor | None, list[str] | None]:
        """Images (b s 3 H W) by camera, state (b s d), and tasks: what the encoder is called with."""
        images = {key: batch[key] for key in self.config.cameras or []}
        columns = [batch[key] for key in self.config.state_features] if self.config.state else []
        return images, torch.cat(columns, dim=-1) if columns else None, self._task(batch)

    def check(self, batch: dict[str, Any]) -> None:
        """What was trained on must be there."""
        if absent := [key for key in self.keys if key not in batch]:
            there = ", ".join(key for key in batch if key.startswith("observation.")) or "none"
            raise ValueError(
                f"{', '.join(absent)} is missing, which the policy was trained on; the observations here are {there}: "
                "name them alike with --rename_map, or train without it by --policy.cameras or --policy.state=false"
            )
        for camera in self.config.cameras or []:
            self._check_size(camera, tuple(batch[camera].shape[-2:]))

    def _check_size(self, camera: str, size: tuple[int, ...]) -> None:
        """A network that takes any size, or a crop, would see everything larger or smaller than in training."""
        vision, trained = self.config.vision, tuple(self.config.image_features[camera].shape[-2:])
        if size != trained and vision.resize is None and (vision.is_resnet or vision.crop):
            (h, w), (height, width) = size, trained
            raise ValueError(
                f"{camera} has {h} x {w} pixels, and the policy was trained on {height} x {width}: give it these, in "
                f"lerobot-eval by --env.observation_height={height} --env.observation_width={width}, or train with "
                f"--policy.vision.resize='[{height}, {width}]', which brings any picture to this size"
            )

    def _with_steps(self, key: str, x: Tensor) -> Tensor:
        width = 4 if key in (self.config.cameras or []) else 2
        return x if x.ndim > width else x.unsqueeze(1).repeat_interleave(self.config.n_obs_steps, dim=1)

    def _task(self, batch: dict[str, Any]) -> list[str] | None:
        if self.config.text is None:
            return None
        task = batch.get(TASK)
        tasks = [task] if isinstance(task, str) else list(task or [])
        if not tasks or not all(tasks):
            raise ValueError(
                "the policy reads the task's description (--policy.text.model) and there is none: use a dataset or an "
                "environment with tasks, pass --task to lerobot-rollout, or train without --policy.text.model"
            )
        return tasks
