"""A saved tap: where its model is tapped, and the weights of a mix. One small file, so that a robot taps it alike.

The model itself is not in it: `vlm.save_pretrained` keeps what was trained of that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from action_heads.files import WeightFileError, load_tensors, save_tensors

if TYPE_CHECKING:
    from action_heads.vlm.tap import Tap

NAME, VERSION = "tap.safetensors", 1


def contract(tap: Tap) -> dict[str, Any]:
    """What decides which tokens come out of a model, and which model it was."""
    model = {"class": type(tap.model).__name__, "hidden_size": tap.text.hidden_size}
    return {"version": VERSION, "layers": tap.layers, "select": tap.select, "model": model}


def save(tap: Tap, folder: Path) -> None:
    """Write it; an older file is replaced at once."""
    tensors = {} if tap.mix is None else {"mix.weight": tap.mix.weight}
    save_tensors(tensors, folder / NAME, {"action_heads": json.dumps(contract(tap))})


def load(tap_class: type[Tap], folder: Path, model: Any, **options: Any) -> Tap:
    """Tap a model as the saved one was."""
    tensors, metadata = load_tensors(file := folder / NAME)
    try:
        saved = json.loads(metadata["action_heads"])
        layers, select = saved["layers"], saved["select"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightFileError(f"{file} was not written by Tap.save: its header lacks {error}") from error
    if saved["version"] != VERSION:
        raise ValueError(f"{file} has version {saved['version']!r}, this release reads {VERSION}: upgrade action-heads")
    tap = tap_class(model, layers, select=select, **options)
    if (found := contract(tap)["model"]) != saved["model"]:
        raise ValueError(f"{file} is of a {saved['model']}, this model is a {found}: load the one it was trained with")
    if tap.mix is not None:
        if tensors.keys() != {"mix.weight"} or tensors["mix.weight"].shape != tap.mix.weight.shape:
            raise WeightFileError(f"{file} names layers {layers} but holds no weight for each: save the tap again")
        with torch.no_grad():
            tap.mix.weight.copy_(tensors["mix.weight"])
    return tap
