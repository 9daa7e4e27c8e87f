"""Checks of the inputs and outputs of a tapped model.

Axes: b batch, n tokens, c width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CACHES = ("past_key_values", "cache_params")
TENSORS = ("input_ids", "attention_mask", "pixel_values", "pixel_values_videos")


def check_inputs(inputs: Mapping[str, Any], model: Any, image_ids: tuple[int, ...]) -> None:
    """Check that inputs are tensors, and that there are images if the tokens have places for images."""
    if not inputs:
        raise ValueError("no inputs were given; call the tap with the output of the processor: tap(**processor(...))")
    for name in TENSORS:
        value = inputs.get(name)
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(
                f"{name} must be a tensor, got a {type(value).__name__}; pass return_tensors='pt' to the processor"
            )
    given = [name for name, value in inputs.items() if value is not None]
    seen = any(word in name for name in given for word in ("pixel", "image", "video", "inputs_embeds"))
    main = getattr(model, "main_input_name", "")
    if main == "pixel_values" and not seen:
        raise ValueError(
            f"{type(model).__name__} takes images, but the inputs are {', '.join(given)}; pass images= to the processor"
        )
    ids = inputs.get("input_ids")
    # Without images, transformers would embed the image tokens as if they were words.
    if image_ids and not seen and ids is not None and torch.isin(ids, ids.new_tensor(image_ids)).any():
        raise ValueError(
            f"the text has image tokens, but the inputs have no images ({', '.join(given)}). Pass images= to the "
            "processor, or remove <image> from the text."
        )
    two_parts = getattr(model.config, "is_encoder_decoder", False) and hasattr(model.base_model, "decoder")
    if two_parts and not any(name.startswith("decoder_") for name in given):
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder, but there are no inputs for the decoder. Tap "
            "model.get_encoder(), or pass decoder_input_ids."
        )


def check_no_cache(inputs: Mapping[str, Any]) -> None:
    """Check that there is no cache of earlier tokens, since a pass that ends early extends it in some layers only."""
    if given := [name for name in CACHES if inputs.get(name) is not None]:
        raise ValueError(
            f"{given[0]} was given, but the model runs only up to the tapped layer, so the cache would be extended in "
            "some layers and not in the others. Pass the whole sequence without a cache, or tap layer=-1, which runs "
            "all layers."
        )


def check_finite(what: str, state: Tensor, mask: Tensor) -> None:
    """Check that the output of a layer (b n c) is finite where a mask (b n) is true."""
    if mask.shape == state.shape[:2]:
        state = torch.where(mask.unsqueeze(-1), state, 0)
    if state.isfinite().all():
        return
    row = int((~state.isfinite().flatten(1).all(1)).nonzero()[0])
    remedy = (
        "float16 ends at 65,504, and hidden states of large models exceed it; load the model with dtype='bfloat16'"
        if state.dtype == torch.float16
        else "check the inputs and the weights of the model"
    )
    raise ValueError(f"{what} of the model has NaN or infinite values in {state.dtype}, batch row {row}: {remedy}")
