"""What a saved state of a run must be before anything of it is used: types, tensors, and that it is unchanged."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from action_heads._util.limits import fits, shown
from action_heads.io import files
from action_heads.io.seal import Seal
from action_heads.io.weights import check_layout, check_values

if TYPE_CHECKING:
    from action_heads.training.base import Training

CURVES = ("curve", "held_out")
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what AdamW keeps for each parameter
KINDS = {
    "config": dict[str, Any],
    "precision": str,
    "tensors": str,
    "step": int,
    "progress": dict[str, Any],
}
HISTORY = {
    "seconds": float,
    "training_seconds": float,
    "average": float | None,
    "curve": list[tuple[int, float]],
    "held_out": list[tuple[int, float]],
}
REMEDY = "delete the folder that it lies in to start anew; what a finished run has made lies elsewhere"
SEAL = Seal(
    ("progress",),
    "{path} and state.json beside it have fingerprint {found}, but were saved as {given}: one of them was changed; "
    + REMEDY,
)


def read(path: Path) -> dict[str, Any]:
    """The record of a run, with every value of its type."""
    record = files.read_json(path)
    known = KINDS.keys() | {SEAL.key}
    if not isinstance(record, dict) or not KINDS.keys() <= record.keys() <= known:
        raise ValueError(f"{path} is no saved state, which has {', '.join(KINDS)}: {REMEDY}")
    if wrong := [name for name, kind in KINDS.items() if not fits(record[name], kind)]:
        raise ValueError(f"{path} has {', '.join(wrong)} of another type than a saved state: {REMEDY}")
    if not re.fullmatch(r"step-\d{1,18}\.safetensors", record["tensors"]) or record["step"] < 0:
        raise ValueError(f"{path} names step {record['step']} and {shown(record['tensors'])}: {REMEDY}")
    history = record["progress"]
    if history.keys() != HISTORY.keys() or not all(fits(history[name], kind) for name, kind in HISTORY.items()):
        raise ValueError(f"{path} has a progress that is not of {', '.join(HISTORY)}: {REMEDY}")
    return record


def read_settings(path: Path) -> dict[str, Any]:
    """The settings and the precision of a run that has begun."""
    record = files.read_json(path)
    kinds = {name: KINDS[name] for name in ("config", "precision")}
    if (
        not isinstance(record, dict)
        or record.keys() != kinds.keys()
        or not all(fits(record[name], kind) for name, kind in kinds.items())
    ):
        raise ValueError(f"{path} is not the record of a run, which has {', '.join(kinds)}: {REMEDY}")
    return record


def load(trainer: Training, record: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """The tensors of a state, known to be those of its record and of this trainer."""
    path = folder / record["tensors"]
    tensors, _ = files.load_tensors(path)
    if not SEAL.check(record, tensors, path):
        warnings.warn(
            f"{folder} was saved by an older release, without a fingerprint: whether it was changed can't be told",
            stacklevel=4,
        )
    expected = {name: tensor for name, tensor in trainer.state_dict().items() if not name.startswith("optimizer.")}
    if trainer.ema is None:  # which the main process alone has
        expected |= {name: tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    of_optimizer = {name for name in tensors if name.startswith("optimizer.")}
    check_layout({name: tensor for name, tensor in tensors.items() if name not in of_optimizer}, expected, path)
    kept: dict[int, set[str]] = {}
    for name in of_optimizer:
        match = re.fullmatch(r"optimizer\.(\d{1,9})\.(\w+)", name)
        number = int(match[1]) if match else len(trainer.parameters)
        if not match or number >= len(trainer.parameters) or match[2] not in ADAM:
            raise files.WeightFileError(f"{path} has an unknown {shown(name)}: {REMEDY}")
        parameter = trainer.parameters[number]
        shape, dtype = (torch.Size(), torch.float32) if match[2] == "step" else (parameter.shape, parameter.dtype)
        if tensors[name].shape != shape or tensors[name].dtype != dtype:
            found = f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            expected_here = f"{dtype} {tuple(shape)}"
            raise files.WeightFileError(f"{path} has {name} as {found}, expected {expected_here}: {REMEDY}")
        kept.setdefault(number, set()).add(match[2])
    if any(names != ADAM for names in kept.values()):
        raise files.WeightFileError(f"{path} lacks parts of the optimiser's state: {REMEDY}")
    check_values(tensors, {}, path)
    return tensors


def settings_in(path: Path) -> dict[str, Any] | None:
    """The settings in the record of training of a finished head or policy, if it has one."""
    record = files.read_json(path)
    for key in ("training", "settings"):
        record = record.get(key) if isinstance(record, dict) else None
    return record if isinstance(record, dict) else None
