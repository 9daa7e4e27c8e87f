"""Refusals of observations: what was given, what the config expects, and the field to change.

Axes: b batch, s observation steps, H and W pixels, d state.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from action_heads.encoders.config import ObservationConfig


def check_images(images: Mapping[str, Tensor], config: ObservationConfig) -> int | None:
    """Images are floats (b s 3 H W) for every camera. Returns b, if there are cameras."""
    if absent := [camera for camera in config.cameras if camera not in images]:
        raise ValueError(
            f"no images of camera {', '.join(map(repr, absent))}; given: {', '.join(map(repr, images)) or 'none'}. "
            "Pass them, or name those that there are in `cameras`"
        )
    for camera in config.cameras:
        x, shape = images[camera], tuple(images[camera].shape)
        if not x.is_floating_point():
            raise ValueError(
                f"images of {camera!r} are {x.dtype}: pass floats in [0, 1], for bytes images.float() / 255"
            )
        if x.ndim != 5 or shape[2] != 3:
            raise ValueError(
                f"images of {camera!r} must be (batch, steps, 3, height, width), got {shape}: channels come before "
                "height and width, and one step is an axis too"
            )
        check_steps(f"images of {camera!r}", shape, config)
    batches = {camera: len(images[camera]) for camera in config.cameras}
    if len(set(batches.values())) > 1:
        raise ValueError(f"cameras differ in their batch: {batches}")
    return next(iter(batches.values()), None)


def check_state(state: Tensor | None, config: ObservationConfig, batch: int | None) -> int | None:
    """The state is floats (b s d), or none where d is 0. Returns b, if there is one."""
    if state is None:
        if config.state_dim:
            raise ValueError(f"no state was given: pass (batch, steps, {config.state_dim}), or set state_dim to 0")
        return batch
    shape = tuple(state.shape)
    if not config.state_dim:
        raise ValueError(f"a state {shape} was given and state_dim is 0: set it to {shape[-1]}, or pass none")
    if state.ndim != 3 or shape[-1] != config.state_dim:
        raise ValueError(f"state must be (batch, steps, {config.state_dim}), got {shape}: set state_dim to its width")
    if not state.is_floating_point():
        raise ValueError(f"state must hold floats, got {state.dtype}")
    check_steps("the state", shape, config)
    if batch not in (None, shape[0]):
        raise ValueError(f"the state has a batch of {shape[0]}, the images of {batch}")
    return shape[0]


def check_steps(what: str, shape: tuple[int, ...], config: ObservationConfig) -> None:
    if shape[1] != config.observation_steps:
        raise ValueError(
            f"{what} {shape} have {shape[1]} observation steps, expected {config.observation_steps}: pass as many, or "
            f"set observation_steps to {shape[1]}"
        )


def check_task(task: list[str] | None, config: ObservationConfig, batch: int | None) -> None:
    """One description for each row, where language is read."""
    if config.text is None:
        return
    if task is None or isinstance(task, str) or not all(isinstance(sentence, str) for sentence in task):
        given = "none was given" if task is None else f"got {task!r}"
        raise ValueError(f"task must be a list of strings, one for each row, {given}: pass it, or set text to None")
    if batch not in (None, len(task)) or not task:
        raise ValueError(f"task must be a list of {batch or 'some'} strings, one for each row, got {len(task)}")


def check_values(camera: str, images: Tensor) -> None:
    """Values lie in [0, 1], but for what resampling may have overshot."""
    low, high = images.aminmax()
    if not (low >= -0.1 and high <= 1.1):
        raise ValueError(
            f"images of {camera!r} lie between {low:.3g} and {high:.3g}: pass floats in [0, 1], neither bytes nor "
            "normalised, since the encoder normalises them itself"
        )
