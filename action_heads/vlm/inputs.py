"""Refusals of what goes into a tapped model, and of what comes out of it.

Axes: b batch, n tokens, c width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TENSORS = ("input_ids", "attention_mask", "pixel_values", "pixel_values_videos")


def check_inputs(inputs: Mapping[str, Any], model: Any, image_ids: tuple[int, ...]) -> None:
    """Tensors, and an image wherever the words stand for one."""
    if not inputs:
        raise ValueError("nothing was passed: call the tap with what the processor returns, tap(**processor(...))")
    for name in TENSORS:
        value = inputs.get(name)
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(
                f"{name} is a {type(value).__name__}, not a tensor: pass return_tensors='pt' to the processor"
            )
    given = [name for name, value in inputs.items() if value is not None]
    seen = any(word in name for name in given for word in ("pixel", "image", "video", "inputs_embeds"))
    main = getattr(model, "main_input_name", "")
    if main == "pixel_values" and not seen:
        raise ValueError(
            f"{type(model).__name__} reads images, and the inputs are {', '.join(given)}: pass images= to the processor"
        )
    ids = inputs.get("input_ids")
    # Without an image transformers would embed its place in the words as if it were a word.
    if image_ids and not seen and ids is not None and torch.isin(ids, ids.new_tensor(image_ids)).any():
        raise ValueError(
            f"the words hold places for an image, and the inputs have none ({', '.join(given)}): pass images= to the "
            "processor, or leave <image> out of the text"
        )
    two_parts = getattr(model.config, "is_encoder_decoder", False) and hasattr(model.base_model, "decoder")
    if two_parts and not any(name.startswith("decoder_") for name in given):
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder, and the inputs have none for the decoder: tap "
            "model.get_encoder(), or pass decoder_input_ids"
        )


def check_finite(what: str, state: Tensor, mask: Tensor) -> None:
    """The output of a layer (b n c) is finite wherever a mask (b n) counts it."""
    if mask.shape == state.shape[:2]:
        state = torch.where(mask.unsqueeze(-1), state, 0)
    if state.isfinite().all():
        return
    row = int((~state.isfinite().flatten(1).all(1)).nonzero()[0])
    remedy = (
        "float16 ends at 65,504, which the middle of large models exceeds: load the model with dtype='bfloat16'"
        if state.dtype == torch.float16
        else "look at the inputs and the weights of the model"
    )
    raise ValueError(f"{what} of the model has NaN or infinite values in {state.dtype}, row {row}: {remedy}")
