"""Checks of observations, with errors that say what was given, what the config expects and what to change.

Axes: b batch, s observation steps, H and W pixels, d state.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from action_heads._util.flags import check_unset
from action_heads.encoders.config import ObservationConfig

NETWORK = ("backbone", "weights", "train", "pool", "features", "shared", "stride")
IMAGES = ("resize", "crop", "jitter")


def check_effective(config: ObservationConfig, cameras: tuple[str, ...], reads: tuple[str, ...]) -> None:
    """Raise a ValueError if a setting of a new encoder has no effect. It names the field, such as "vision.backbone".

    Args:
        config: the settings.
        cameras: the cameras that the vision networks see.
        reads: what the VLM reads, "images" and "words"; empty without a VLM.
    """
    vision, vlm = config.vision, config.vlm
    if not config.cameras:
        check_unset(vision, "there are no cameras. Leave it out", *NETWORK, *IMAGES, prefix="vision.")
    elif vlm and not cameras:
        why = f"{vlm.model} encodes the images. Leave it out, or choose a model that reads words only"
        check_unset(vision, why, *NETWORK, prefix="vision.")
    elif vision.is_resnet and vision.pool == "cls":
        check_unset(vision, "the features of a ResNet are keypoints. Leave it out", "pool", prefix="vision.")
    if vlm and vlm.train != "lora":
        check_unset(
            vlm, "it is for LoRA. Leave it out, or set the training of the model to lora", "lora_rank", prefix="vlm."
        )
    if vlm and "words" not in reads:
        check_unset(vlm, f"{vlm.model} reads no words. Leave it out", "prompt", "template", prefix="vlm.")


def check_images(images: Mapping[str, Tensor], config: ObservationConfig, cameras: tuple[str, ...]) -> int | None:
    """Check that each of these cameras has floating-point images (b s 3 H W); return b, or None without cameras."""
    if absent := [camera for camera in cameras if camera not in images]:
        raise ValueError(
            f"images of camera {', '.join(map(repr, absent))} are missing; those of "
            f"{', '.join(map(repr, images)) or 'no camera'} were given. Pass them, or remove the camera from `cameras`."
        )
    for camera in cameras:
        x, shape = images[camera], tuple(images[camera].shape)
        if not x.is_floating_point():
            raise ValueError(
                f"images of {camera!r} are {x.dtype}; expected floats in [0, 1], for bytes images.float() / 255"
            )
        if x.ndim != 5 or shape[2] != 3:
            raise ValueError(
                f"images of {camera!r} have shape {shape}; expected (batch, steps, 3, height, width). Channels come "
                "before height and width, and even a single observation step needs its axis."
            )
        check_steps(f"images of {camera!r}", shape, config)
    batches = {camera: len(images[camera]) for camera in cameras}
    if len(set(batches.values())) > 1:
        raise ValueError(f"the cameras have different batch sizes: {batches}")
    return next(iter(batches.values()), None)


def check_state(state: Tensor | None, config: ObservationConfig, batch: int | None) -> int | None:
    """Check that the state is floating point (b s d), or None if d is 0; return b if it is known."""
    if state is None:
        if config.state_dim:
            raise ValueError(
                f"no state was given; pass one of shape (batch, steps, {config.state_dim}), or set state_dim to 0"
            )
        return batch
    shape = tuple(state.shape)
    if not config.state_dim:
        raise ValueError(
            f"a state of shape {shape} was given, but state_dim is 0. Set it to {shape[-1]}, or pass no state."
        )
    if state.ndim != 3 or shape[-1] != config.state_dim:
        raise ValueError(
            f"state has shape {shape}; expected (batch, steps, {config.state_dim}). Set state_dim to its width."
        )
    if not state.is_floating_point():
        raise ValueError(f"state must be floating point, got {state.dtype}")
    check_steps("the state", shape, config)
    if batch not in (None, shape[0]):
        raise ValueError(f"the state has batch size {shape[0]}, but the images have {batch}")
    return shape[0]


def check_steps(what: str, shape: tuple[int, ...], config: ObservationConfig) -> None:
    """Check the number of observation steps of a shape (b s ...)."""
    if shape[1] != config.observation_steps:
        raise ValueError(
            f"{what} of shape {shape} have {shape[1]} observation steps; expected {config.observation_steps}. Pass as "
            f"many, or set observation_steps to {shape[1]}"
        )


def check_task(task: list[str] | None, reader: str, batch: int | None) -> None:
    """Check that there is one description for each batch row, for the part of the config that reads them."""
    if task is None or isinstance(task, str) or not all(isinstance(sentence, str) for sentence in task):
        given = "none was given" if task is None else f"got {task!r}"
        remedy = "set text to None" if reader == "text" else "choose a vlm.prompt without {task}"
        raise ValueError(f"task must be a list of strings, one for each batch row, but {given}. Pass it, or {remedy}.")
    if batch not in (None, len(task)) or not task:
        raise ValueError(f"task must have {batch or 'at least 1'} strings, one for each batch row, got {len(task)}")


def check_values(camera: str, images: Tensor) -> None:
    """Check that values lie in [0, 1], with some tolerance for the overshoot of resampling."""
    low, high = images.aminmax()
    if not (low >= -0.1 and high <= 1.1):
        raise ValueError(
            f"images of {camera!r} have values from {low:.3g} to {high:.3g}; expected floats in [0, 1]. Pass them "
            "neither as bytes nor normalised, since the encoder normalises them."
        )


def conclusive(images: Tensor) -> bool:
    """Return whether values show their range. Black images, as a camera may give at its start, do not."""
    return not torch.equal(images, images.round())
