"""An encoder made again from what was saved of it, and refused before it takes memory if that does not fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads._util import limits
from action_heads._util.limits import check_width, fits, shown
from action_heads.encoders.config import ObservationConfig
from action_heads.encoders.observation import ObservationEncoder
from action_heads.io.files import WeightFileError
from action_heads.io.weights import check_layout, check_values

VISION = {
    "config": dict[str, Any],
    "mean": tuple[float, float, float],
    "std": tuple[float, float, float],
    "size": tuple[int, int],
    "width": int,
}
TEXT = {"width": int, "revision": str | None}
LEARNT = ("text.sentences", "text.vectors")  # as long as there are sentences, and checked by the text encoder itself


def load(observation: Any, architecture: Any, tensors: Mapping[str, Tensor], path: Path) -> ObservationEncoder:
    """Build the encoder of a saved config and architecture, and load its weights.

    Args:
        observation: as of `ObservationConfig.to_dict`.
        architecture: as of `ObservationEncoder.architecture`.
        tensors: the whole state.
        path: of the weights, for messages.
    """
    config = ObservationConfig.from_dict(observation)
    check_architecture(architecture, config)
    fixed = {name: tensor for name, tensor in tensors.items() if name not in LEARNT}
    with torch.device("meta"):
        layout = {k: v for k, v in build(config, architecture).state_dict().items() if k not in LEARNT}
    check_layout(fixed, layout, path)
    check_values(fixed, layout, path)
    encoder = build(config, architecture)
    try:
        encoder.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WeightFileError(f"{path} does not fit the config beside it: {error}") from error
    return encoder


def build(config: ObservationConfig, architecture: dict[str, Any]) -> ObservationEncoder:
    """An encoder with random weights; no other random state moves."""
    with torch.random.fork_rng(devices=[]):
        try:
            return ObservationEncoder(config, architecture)
        except (ImportError, ValueError):
            raise
        except Exception as error:  # transformers says in many ways that a config describes no model
            raise ValueError(
                f"the saved architecture describes no network ({error}): save the encoder again"
            ) from error


def check_architecture(architecture: Any, config: ObservationConfig) -> None:
    """Types and sizes of what networks are made of beyond the config."""
    if not isinstance(architecture, dict) or not architecture.keys() <= {"vision", "text"}:
        raise ValueError(f"the architecture of an encoder is an object of vision and text, got {shown(architecture)}")
    for name, kinds in (("vision", VISION), ("text", TEXT)):
        if name not in architecture:
            continue
        part = architecture[name]
        if not isinstance(part, dict) or part.keys() != kinds.keys():
            raise ValueError(f"the architecture's {name} needs {', '.join(kinds)}, got {shown(part)}")
        for key, kind in kinds.items():
            if not fits(part[key], kind):
                raise ValueError(
                    f"the architecture's {name}.{key} must be {limits.spelled(kind)}, got {shown(part[key])}"
                )
        check_width(f"{name}.width in the architecture", part["width"], limits.WIDTH)
    if vision := architecture.get("vision"):
        for pixels in vision["size"]:
            check_width("vision.size in the architecture", pixels, limits.PIXELS)
        if min(vision["std"]) <= 0:
            raise ValueError(f"vision.std in the architecture must be positive, got {vision['std']}")
        _check_model(vision["config"])


def _check_model(values: Mapping[str, Any]) -> None:
    """The config of a transformers model, and what is nested in it."""
    for key, value in values.items():
        layers = "layers" in key or "depth" in key
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, dict):
                _check_model(number)
            elif type(number) is int and abs(number) > (limits.DEPTH if layers else 2**24):
                raise ValueError(f"{key} in the architecture's config is {shown(number)}: the file is damaged")
