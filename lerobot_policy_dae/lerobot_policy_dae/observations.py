"""Inputs of `ObservationEncoder` from LeRobot's batches. Acting gives one observation at a time, so past ones are kept.

Axes: b batch, s observation steps, H and W pixels, d state.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import torch
from lerobot.configs import NormalizationMode
from lerobot.utils.constants import ACTION, OBS_ENV_STATE
from torch import Tensor

from action_heads.actions.contract import Contract
from action_heads.encoders import ObservationConfig, VisionConfig
from lerobot_policy_dae.configuration_dae import DAEConfig

TASK = "task"
FAR = 1e3  # in normalised units, such as a metre in a column that moved by a millimetre in training

logger = logging.getLogger(__name__)


def settle(config: DAEConfig) -> ObservationConfig:
    """Return the encoder's settings for the flags and the dataset. Remove all unused features from the config."""
    config.cameras = list(config.image_features) if config.cameras is None else list(config.cameras)
    if config.environment_state is None:
        config.environment_state = not config.cameras
    if not config.environment_state:
        seen = (config.input_features or {}).items()
        config.input_features = {key: feature for key, feature in seen if key != OBS_ENV_STATE}
    config.state = config.state and bool(config.state_features)
    used = {*config.cameras, *(config.state_features if config.state else ())}
    config.input_features = {key: ft for key, ft in (config.input_features or {}).items() if key in used}
    config.environment_state = OBS_ENV_STATE in config.input_features  # what a checkpoint's weights have seen
    return ObservationConfig(
        cameras=tuple(config.cameras),
        state_dim=sum(config.state_features.values()) if config.state else 0,
        observation_steps=config.n_obs_steps,
        vision=config.vision,
        text=config.text,
        vlm=config.vlm,
    )


def check_shapes(config: DAEConfig) -> None:
    """Raise a ValueError unless all features of settled settings are colour images, or states of one axis."""
    for key, feature in (config.input_features or {}).items():
        shape = tuple(feature.shape)
        if key in (config.cameras or []) and (len(shape) != 3 or shape[0] != 3):
            raise ValueError(
                f"The encoder takes colour images (3, height, width), but the dataset has {key} {shape}. Name the "
                "other cameras with --policy.cameras, [] for none."
            )
        if key in config.state_features and len(shape) != 1:
            raise ValueError(
                f"{key} has the shape {shape}, expected one number of columns. Flatten it in the dataset, or train "
                "without it by --policy.state=false."
            )


def contract_of(config: DAEConfig) -> Contract:
    """Return the contract of a policy, without a rate because its checkpoint does not keep the dataset's."""
    state = tuple(config.state_features) if config.state else ()
    shapes = {camera: config.image_features[camera].shape for camera in config.cameras or []}
    sizes = {camera: (height, width) for camera, (*_, height, width) in shapes.items()}
    return Contract(state, sizes, ACTION, str(config.action_layout), config.gripper, rate_hz=None)


class Observations:
    """The last observations of an episode. The first one is repeated until there are enough.

    Args:
        config: settings of the policy.
        vision: settings of the image encoder as it was built.
    """

    def __init__(self, config: DAEConfig, vision: VisionConfig):
        self.config, self.vision = config, vision
        self.warned: set[str] = set()
        self.past: deque[dict[str, Tensor]] = deque(maxlen=config.n_obs_steps)

    @property
    def keys(self) -> list[str]:
        return [*(self.config.cameras or []), *(self.config.state_features if self.config.state else ())]

    def add(self, batch: dict[str, Any]) -> None:
        """Add an observation: images (b 3 H W), state (b d). An error leaves the remembered ones unchanged."""
        self.check(batch)
        self._task(batch)
        present = {key: batch[key] for key in self.keys}
        for key, x in present.items():
            width = 4 if key in (self.config.cameras or []) else 2
            if x.ndim != width:
                raise ValueError(
                    f"{key} has shape {tuple(x.shape)}; select_action takes the present alone, {self._shape(key)}"
                )
        self._check_rows(present)
        check_finite(present)
        self._warn_of_far(present)
        kept = {key: x.clone() for key, x in present.items()}  # The caller may fill its tensors anew.
        self.past.extend([kept] * (1 if self.past else self.config.n_obs_steps))

    def stacked(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the remembered observations (b s ...) with the present task."""
        steps = {key: torch.stack([step[key] for step in self.past], dim=1) for key in self.keys}
        return steps | {TASK: batch.get(TASK)}

    def with_steps(self, batch: dict[str, Any], acting: bool = False) -> dict[str, Any]:
        """Return a batch (b s ...), with the present repeated if it has no axis s. If `acting`, raise on NaN."""
        self.check(batch)
        if acting:
            present = {key: batch[key] for key in self.keys}
            check_finite(present)
            self._warn_of_far(present)
        steps = {key: self._with_steps(key, batch[key]) for key in self.keys}
        return steps | {TASK: batch.get(TASK)}

    def inputs(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor | None, list[str] | None]:
        """Return the encoder's inputs: images (b s 3 H W) by camera, state (b s d), and tasks."""
        images = {key: batch[key] for key in self.config.cameras or []}
        columns = [batch[key] for key in self.config.state_features] if self.config.state else []
        return images, torch.cat(columns, dim=-1) if columns else None, self._task(batch)

    def check(self, batch: dict[str, Any]) -> None:
        """Raise a ValueError unless the batch has all features of training, in the same shapes."""
        if absent := [key for key in self.keys if key not in batch]:
            there = ", ".join(key for key in batch if key.startswith("observation.")) or "none"
            raise ValueError(
                f"{', '.join(absent)} is missing, but the policy was trained with it. The observations here are "
                f"{there}. Rename them with --rename_map, or train without it by --policy.cameras or "
                "--policy.state=false."
            )
        for key in self.keys:
            self._check_shape(key, batch[key])
        for camera in self.config.cameras or []:
            self._check_size(camera, tuple(batch[camera].shape[-2:]))

    def _check_shape(self, key: str, x: Any) -> None:
        """Raise a ValueError unless a feature is floats as wide as in training, with or without the axis s."""
        camera = key in (self.config.cameras or [])
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"{key} is {given}, expected floats {self._shape(key)}. Apply the policy's preprocessor to the batch."
            )
        width = 3 if camera else self.config.state_features[key]
        at, axes = (-3, (4, 5)) if camera else (-1, (2, 3))
        if x.ndim not in axes or x.shape[at] != width or 0 in x.shape:
            raise ValueError(
                f"{key} has shape {tuple(x.shape)}, but the policy was trained on {self._shape(key)}. An axis of "
                f"{self.config.n_obs_steps} observations after the batch axis is allowed."
            )

    def _shape(self, key: str) -> str:
        return (
            "(batch, 3, height, width)"
            if key in (self.config.cameras or [])
            else f"(batch, {self.config.state_features[key]})"
        )

    def _check_rows(self, present: dict[str, Tensor]) -> None:
        """Raise a ValueError unless all features describe the same number of robots as before."""
        rows = {key: len(x) for key, x in present.items()}
        before = {len(x) for x in self.past[-1].values()} if self.past else set()
        if len({*rows.values(), *before}) > 1:
            given = ", ".join(f"{key} {count}" for key, count in rows.items())
            then = f", after {', '.join(map(str, sorted(before)))} in the ticks before" if before else ""
            raise ValueError(
                f"The observations differ in their batch size: {given}{then}. Call reset() when the robots change."
            )

    def _warn_of_far(self, present: dict[str, Tensor]) -> None:
        """Warn once for each feature whose normalised values are far outside the training data."""
        for key in self.config.state_features if self.config.state else ():
            mode = self.config.normalization_mapping.get(self.config.input_features[key].type)  # type: ignore[index]
            far = present[key].abs().flatten(0, -2).amax(0) > FAR
            if key in self.warned or mode in (None, NormalizationMode.IDENTITY) or not far.any():
                continue
            self.warned.add(key)
            column = int(far.int().argmax())
            logger.warning(
                "%s reaches %.5g in dimension %d after normalisation, but training data lie within a few units. Either "
                "the robot is far from its demonstrations, or the column hardly moved in them and an old preprocessor "
                "divides by its tiny spread. In that case train again, or save the checkpoint's preprocessor again.",
                *(key, float(present[key][..., column].abs().max()), column),
            )

    def _check_size(self, camera: str, size: tuple[int, ...]) -> None:
        """Raise a ValueError if images differ in size from training and the encoder would not resize them."""
        vision, trained = self.vision, tuple(self.config.image_features[camera].shape[-2:])
        sized = (vision.is_resnet and self.config.vlm is None) or vision.crop  # a VLM's processor resizes images
        if size != trained and vision.resize is None and sized:
            (h, w), (height, width) = size, trained
            raise ValueError(
                f"{camera} has {h} x {w} pixels, but the policy was trained on {height} x {width}. Use this size, in "
                f"lerobot-eval with --env.observation_height={height} --env.observation_width={width}, or train a "
                f"new policy with --policy.vision.resize='[{height}, {width}]', which resizes every image to it."
            )

    def _with_steps(self, key: str, x: Tensor) -> Tensor:
        width = 4 if key in (self.config.cameras or []) else 2
        return x if x.ndim > width else x.unsqueeze(1).repeat_interleave(self.config.n_obs_steps, dim=1)

    def _task(self, batch: dict[str, Any]) -> list[str] | None:
        vlm = self.config.vlm
        if self.config.text is None and vlm is None:
            return None
        task = batch.get(TASK)
        tasks = [task] if isinstance(task, str) else list(task or [])
        if not tasks or not all(tasks):
            if self.config.text is None and vlm is not None and not vlm.reads_task:
                return None
            reader, without = (
                ("--policy.text.model", "without --policy.text.model")
                if self.config.text is not None
                else ("--policy.vlm.prompt", "with a --policy.vlm.prompt without {task}")
            )
            raise ValueError(
                f"The policy reads the task's description ({reader}), but the batch has none. Use a dataset or an "
                f"environment with tasks, pass --task to lerobot-rollout, or train {without}."
            )
        return tasks


def check_finite(present: dict[str, Tensor]) -> None:
    """Raise a ValueError that names the feature with NaN or infinite values.

    Their sum is not finite either. It is cheaper than a check of every pixel, and an accelerator is waited for once.
    """
    if not present:
        return
    total = torch.stack([x.detach().sum(dtype=torch.float32) for x in present.values()]).cpu()
    for (key, x), whole in zip(present.items(), total.isfinite().tolist(), strict=True):
        bad = None if whole else ~x.isfinite()
        if bad is not None and bad.any():
            first = bad.nonzero()[0].tolist()
            where = f"dimension {first[-1]}" if x.ndim < 4 else f"pixel {first[-2]}, {first[-1]}"
            raise ValueError(
                f"{key} has {int(bad.sum())} NaN or infinite values, the first in batch row {first[0]}, {where}. "
                "This observation was not used. Check the sensor, and skip the tick or stop the robot."
            )
