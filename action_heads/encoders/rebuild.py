"""Build an encoder from its saved files, and check that they fit together before it takes memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads._util import limits
from action_heads._util.limits import check_width, fits, shown
from action_heads._util.own_generator import OwnGenerator
from action_heads.encoders.config import ObservationConfig
from action_heads.encoders.observation import ObservationEncoder
from action_heads.encoders.vlm_config import VLMConfig
from action_heads.io.files import WeightFileError
from action_heads.io.weights import check_layout, check_values
from action_heads.vlm.files import IMAGES, WORDS

VISION = {
    "config": dict[str, Any],
    "mean": tuple[float, float, float],
    "std": tuple[float, float, float],
    "size": tuple[int, int],
    "width": int,
}
TEXT = {"width": int, "revision": str | None}
VLM = {
    "class": str,
    "width": int,
    "reads": tuple[str, ...],
    "revision": str | None,
    "fingerprint": str,
    "parameters": int,
    "trained": dict[str, tuple[int, ...]],
}
LEARNT = ("text.sentences", "text.vectors")  # Their length varies, and the text encoder checks them.


def load(
    observation: Any, architecture: Any, tensors: Mapping[str, Tensor], path: Path, vlm: str | None = None
) -> ObservationEncoder:
    """Build the encoder of a saved config and architecture, and load its weights.

    The weights of a VLM that did not train are not loaded now, but the model must be there.

    Args:
        observation: the config, as `ObservationConfig.to_dict` returned it.
        architecture: the attribute `ObservationEncoder.architecture`.
        tensors: the whole state.
        path: path of the weights, for messages.
        vlm: folder or Hub id of the VLM, if it is not where it was in training.

    Raises:
        ValueError: the config, the architecture and the weights are not valid or do not fit together.
    """
    config = at(ObservationConfig.from_dict(observation), vlm)
    check_architecture(architecture)
    fixed = {name: tensor for name, tensor in tensors.items() if name not in LEARNT}
    with torch.device("meta"):
        layout = {k: v for k, v in build(config, architecture).state_dict().items() if k not in LEARNT}
    check_layout(fixed, layout, path)
    check_values(fixed, layout, path)
    encoder = build(config, architecture)
    try:
        encoder.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WeightFileError(f"{path} does not fit its config: {error}") from error
    if encoder.vlm is not None:
        encoder.vlm.check()
    return encoder


def at(config: ObservationConfig, vlm: VLMConfig | str | None) -> ObservationConfig:
    """Return the config with its VLM in another place, if one is given."""
    if vlm is None:
        return config
    place, revision = (vlm, None) if isinstance(vlm, str) else (vlm.model, vlm.revision)
    if config.vlm is None:
        raise ValueError(f"a VLM was given, {place!r}, but this policy has none. Leave it out")
    return replace(config, vlm=replace(config.vlm, model=place, revision=revision))


def build(config: ObservationConfig, architecture: dict[str, Any]) -> ObservationEncoder:
    """Build an encoder with random weights, without changing the global random state."""
    with OwnGenerator(), torch.device("cpu"):
        try:
            return ObservationEncoder(config, architecture)
        except (ImportError, ValueError):
            raise
        except Exception as error:  # transformers raises many types of errors for invalid configs.
            raise ValueError(
                f"the saved architecture does not describe a network ({error}); save the encoder again"
            ) from error


def check_architecture(architecture: Any) -> None:
    """Check the types and sizes of a saved architecture."""
    if not isinstance(architecture, dict) or not architecture.keys() <= {"vision", "text", "vlm"}:
        raise ValueError(
            f"the architecture of an encoder must be an object of vision, text and vlm, got {shown(architecture)}"
        )
    for name, kinds in (("vision", VISION), ("text", TEXT), ("vlm", VLM)):
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
    if vlm := architecture.get("vlm"):
        if not set(vlm["reads"]) <= {IMAGES, WORDS} or not vlm["reads"]:
            raise ValueError(f"vlm.reads in the architecture must name images or words, got {vlm['reads']}")
        for name, shape in vlm["trained"].items():
            for size in shape:
                check_width(f"the size of {name} in the architecture", size, 2**24)
    if vision := architecture.get("vision"):
        for pixels in vision["size"]:
            check_width("vision.size in the architecture", pixels, limits.PIXELS)
        if min(vision["std"]) <= 0:
            raise ValueError(f"vision.std in the architecture must be positive, got {vision['std']}")
        _check_model(vision["config"])


def _check_model(values: Mapping[str, Any]) -> None:
    """Check the sizes in the config of a transformers model, and in configs nested in it."""
    for key, value in values.items():
        layers = "layers" in key or "depth" in key
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, dict):
                _check_model(number)
            elif type(number) is int and abs(number) > (limits.DEPTH if layers else 2**24):
                raise ValueError(f"{key} in the architecture's config is {shown(number)}; the file is damaged")
