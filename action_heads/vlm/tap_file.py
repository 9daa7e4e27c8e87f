"""The file of a tap, with its layers, its selection and the weights of a mix.

The model is not in it. Save its trained weights with `save_pretrained` of the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from action_heads._util.limits import fits, shown
from action_heads.io.files import HEADER, WeightFileError, load_tensors, parse_json, save_tensors
from action_heads.io.seal import Seal
from action_heads.io.weights import check_layout, check_savable, check_values
from action_heads.vlm.model import unwrap

if TYPE_CHECKING:
    from action_heads.vlm.tap import Tap

NAME, VERSION = "tap.safetensors", 1
KINDS = {"version": int, "layers": list[int | str], "select": str, "model": dict[str, str | int]}
SEAL = Seal(changed="{path} has fingerprint {found}, but was saved with {given}: it was changed. Copy or save it again")


def contract(tap: Tap) -> dict[str, Any]:
    """Return the settings of a tap, with a description of its model."""
    return {"version": VERSION, "layers": tap.layers, "select": tap.select, "model": model_of(tap.model)}


def model_of(model: Any) -> dict[str, Any]:
    """Return the properties of a model that a tap depends on."""
    return {"class": type(model).__name__, "hidden_size": model.config.get_text_config().hidden_size}


def save(tap: Tap, folder: Path) -> None:
    """Write the file of a tap. An existing file is replaced atomically."""
    tensors = {} if tap.mix is None else {"mix.weight": tap.mix.weight}
    check_savable(tensors, folder / NAME)
    config = contract(tap)
    config["fingerprint"] = SEAL.of(config, tensors)
    save_tensors(tensors, folder / NAME, {HEADER: json.dumps(config)})


def load(tap_class: type[Tap], folder: Path, model: Any, **options: Any) -> Tap:
    """Tap a model in the same way as a saved tap; see `Tap.load`."""
    tensors, saved = read(file := folder / NAME)
    layers = saved["layers"]
    expected = {"mix.weight": torch.empty(len(layers))} if len(layers) > 1 else {}
    check_layout(tensors, expected, file)
    check_values(tensors, expected, file)
    try:
        found = model_of(unwrap(model))
    except ValueError as error:
        raise ValueError(f"{file} can't be used with this model: {error}") from error
    if found != saved["model"]:
        raise ValueError(
            f"{file} belongs to {saved['model']}, but this model is {found}; load the one it was trained with"
        )
    try:
        tap = tap_class(model, layers, select=saved["select"], **options)
    except ValueError as error:
        raise ValueError(f"{file} does not fit this model: {error}") from error
    if tap.mix is not None:
        with torch.no_grad():
            tap.mix.weight.copy_(tensors["mix.weight"])
    return tap


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and config of a saved tap, after checking version, types and fingerprint."""
    tensors, metadata = load_tensors(file)
    if HEADER not in metadata:
        raise WeightFileError(f"{file} was not written by Tap.save: its header lacks {HEADER!r}")
    config = parse_json(metadata[HEADER], file)
    if not isinstance(config, dict) or not KINDS.keys() <= config.keys():
        raise WeightFileError(f"{file} was not written by Tap.save: its header needs {', '.join(KINDS)}")
    if type(config["version"]) is not int or config["version"] != VERSION:
        version = shown(config["version"])
        raise ValueError(f"{file} has version {version}, but this release reads {VERSION}; upgrade action-heads")
    if config.keys() - {SEAL.key} != KINDS.keys() or not all(fits(config[key], kind) for key, kind in KINDS.items()):
        raise ValueError(
            f"{file} has an incomplete or unknown config in its header: {shown(config)}. Save the tap again."
        )
    if not config["layers"]:
        raise ValueError(f"{file} lists no layer, so it is damaged; save the tap again")
    SEAL.check_or_warn(config, tensors, file, ". Load and save the tap once to add it")
    return tensors, config
