"""Save, check and load the training state of a run.

A training state is what a run needs to resume: tensors in safetensors and the rest in JSON. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from action_heads._util.flat import in_new_words
from action_heads._util.limits import fits, shown, types_of
from action_heads.io import drafts, files
from action_heads.io.seal import Seal
from action_heads.io.weights import check_layout, check_values

if TYPE_CHECKING:
    from action_heads.training.base import Training

POINT_EVERY = 50  # training steps between two points of the training curve
BEGUN, STATE = "run.json", "state.json"  # the settings, written before the first step; the last saved step
MADE = {"config.json": "head", "policy.json": "policy"}  # what a finished run writes, with its settings in it
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # the state of AdamW for each parameter
SETTINGS = {"config": dict[str, Any], "precision": str}
WEIGHTLESS = {"name", "save_every"}  # settings in records of older releases that do not affect the weights
INPUTS = {"inputs": dict[str, str]}  # `Training.inputs`, which records of older releases lack
KINDS = SETTINGS | {"tensors": str, "step": int, "progress": dict[str, Any]}
REMEDY = "To start again, delete the folder of this file. The results of a finished run are in another folder"
SEAL = Seal(
    ("progress",),
    "{path} and the state.json beside it have the fingerprint {found}, but were saved with {given}, so one of them was "
    "changed. " + REMEDY,
)


@dataclass
class Progress:
    """The history of a run."""

    seconds: float = 0.0  # total
    training_seconds: float = 0.0  # without evaluating and saving
    average: float | None = None  # running average of the training loss
    curve: list[tuple[int, float]] = field(default_factory=list)  # (training step, average)
    held_out: list[tuple[int, float]] = field(default_factory=list)  # (training step, loss of the averaged weights)

    def add(self, step: int, loss: float) -> None:
        """Add the loss of a training step."""
        self.average = loss if self.average is None else 0.98 * self.average + 0.02 * loss
        if step % POINT_EVERY == 0:
            self.curve.append((step, self.average))


def save(trainer: Training, folder: Path) -> None:
    """Save the training state.

    The tensors are written before the record that names them, so an interruption leaves the previous state complete.
    """
    name = f"step-{trainer.step}.safetensors"
    tensors = trainer.state_dict()
    files.save_tensors(tensors, folder / name)
    record = _settings(trainer) | {"tensors": name, "step": trainer.step, "progress": asdict(trainer.progress)}
    record[SEAL.key] = SEAL.of(record, tensors)
    files.write_text(folder / STATE, json.dumps(record))
    _remove_others(folder, name)


def begin(trainer: Training, folder: Path) -> None:
    """Write settings and inputs before the first step, and remove the unfinished files of killed runs."""
    if not trainer.accelerator.is_main_process:
        return
    record = read(folder)
    drafts.sweep(folder, [BEGUN, STATE, "step-*.safetensors"])
    _remove_others(folder, record["tensors"] if record else "")
    if "inputs" not in (begun(folder) or {}):  # A run that an older release began has them from now on.
        files.write_text(folder / BEGUN, json.dumps(_settings(trainer)))


def resume(trainer: Training, folder: Path) -> None:
    """Load the last saved state into a trainer, which has checked that the settings are the same.

    Raises:
        RuntimeError: the processes would start from different steps, so training would wait forever.
    """
    if (record := read(folder)) is not None:
        trainer.load_state_dict(_load_tensors(trainer, record, folder), record["step"])
        history = record["progress"]
        curves: dict[str, Any] = {name: [tuple(point) for point in history[name]] for name in ("curve", "held_out")}
        trainer.progress = Progress(**history | curves)
    accelerator = trainer.accelerator
    steps = accelerator.gather(torch.tensor([trainer.step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes would start from different steps, {steps}. Put {folder} where all of them can read it"
        )


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record of the last saved step, or None if no step was saved."""
    if not (path := folder / STATE).exists():
        return None
    record = files.read_json(path, REMEDY)
    known = KINDS.keys() | INPUTS.keys() | {SEAL.key}
    if not isinstance(record, dict) or not KINDS.keys() <= record.keys() <= known:
        raise ValueError(f"{path} is not a training state, which has the keys {', '.join(KINDS)}. {REMEDY}")
    if wrong := _wrong(record, KINDS):
        raise ValueError(f"{path} has values of the wrong type for {', '.join(wrong)}. {REMEDY}")
    if not re.fullmatch(r"step-\d{1,18}\.safetensors", record["tensors"]) or record["step"] < 0:
        raise ValueError(f"{path} names step {record['step']} and the file {shown(record['tensors'])}. {REMEDY}")
    history, kinds = record["progress"], types_of(Progress)
    if history.keys() != kinds.keys() or not all(fits(history[name], kind) for name, kind in kinds.items()):
        raise ValueError(f"{path} has a damaged progress: it must hold {', '.join(kinds)}. {REMEDY}")
    return record


def begun(folder: Path) -> dict[str, Any] | None:
    """Return settings, precision and inputs of a run that has begun, or None. It need not have saved a step."""
    if not (path := folder / BEGUN).exists():
        return read(folder)
    record = files.read_json(path, REMEDY)
    if not isinstance(record, dict) or record.keys() - INPUTS.keys() != SETTINGS.keys() or _wrong(record, SETTINGS):
        raise ValueError(f"{path} is not the record of a run, which has the keys {', '.join(SETTINGS)}. {REMEDY}")
    return record


def refuse_others(settings: dict[str, Any], out: Path) -> None:
    """Refuse a folder that holds a run or a result of other settings, so that no run overwrites one by accident.

    Raises:
        ValueError: the settings differ. The message names them.
    """
    if (record := begun(out / "state")) is not None:
        if different := _different(settings, record["config"]):
            delete = "" if read(out / "state") else f". It has saved no step yet, so {out / 'state'} can be deleted"
            raise ValueError(
                f"{out / 'state'} holds a run with other settings ({', '.join(different)}). "
                f"Use the same settings to resume it, or another --out to start a new run{delete}"
            )
        return
    for what, theirs in _finished(out, "settings"):
        if different := _different(settings, theirs):
            which = f"made with other settings ({', '.join(different)})" if theirs else "whose settings are not known"
            raise ValueError(
                f"{out} holds a finished {what} {which}, which this run would overwrite. Use another --out, or delete "
                f"that folder if you do not need the {what}"
            )


def refuse_changed(inputs: Mapping[str, str], out: Path) -> None:
    """Refuse a folder that holds a run or a result of other inputs under the same settings.

    A run that went on with another recording would finish with the statistics of one and the weights of the other.
    A record of an older release has no inputs. Its run is resumed as that release did, unchecked.

    Raises:
        ValueError: an input differs. The message names it.
    """
    if (record := begun(out / "state")) is not None:
        others = [("run", record.get("inputs", {}))]
    else:
        others = [(f"finished {what}", theirs) for what, theirs in _finished(out, "inputs")]
    for what, theirs in others:
        if names := changed(inputs, theirs):
            raise ValueError(
                f"{out} holds a {what} that began with other contents of {', '.join(names)}, which have changed "
                f"since. Restore them to resume it, use another --out to start a new run, or delete {out} if you do "
                "not need it"
            )


def changed(inputs: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that a record has with another hash. One that it lacks is not compared."""
    return sorted(name for name in inputs if theirs.get(name, inputs[name]) != inputs[name])


def _settings(trainer: Training) -> dict[str, Any]:
    """Return what must stay the same when a run is resumed."""
    precision = "bf16" if trainer.accelerator.mixed_precision == "bf16" else "fp32"
    return {"config": trainer.settings(), "precision": precision, "inputs": trainer.inputs}


def _finished(out: Path, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the kind of each finished result in a folder, with a part of its training record; {} if it has none."""
    for name, what in MADE.items():
        if (out / name).exists():
            record = files.read_json(out / name)
            for key in ("training", part):
                record = record.get(key) if isinstance(record, dict) else None
            yield what, record if isinstance(record, dict) else {}


def _wrong(record: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    """Return the names of the values of a record that are not of these types; `INPUTS` may be missing."""
    kinds = {**kinds, **{name: kind for name, kind in INPUTS.items() if name in record}}
    return [name for name, kind in kinds.items() if not fits(record[name], kind)]


def _different(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the names of the settings that differ. One that only a side has differs too, unless it is None.

    `Settings.outcome` leaves settings out while they have their defaults, so either side may lack some.
    """
    theirs = in_new_words(theirs)
    names = (ours.keys() | theirs.keys()) - WEIGHTLESS
    return sorted(name for name in names if theirs.get(name) != ours.get(name))


def _remove_others(folder: Path, name: str) -> None:
    """Remove the tensors of all other steps."""
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def _load_tensors(trainer: Training, record: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """Load the tensors of a state, and check that they belong to its record and fit the trainer."""
    path = folder / record["tensors"]
    tensors, _ = files.load_tensors(path, REMEDY)
    SEAL.check_or_warn(record, tensors, path)
    expected = {name: tensor for name, tensor in trainer.state_dict().items() if not name.startswith("optimizer.")}
    if trainer.ema is None:  # only the main process has an average
        expected |= {name: tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    of_optimizer = {name for name in tensors if name.startswith("optimizer.")}
    others = {name: tensor for name, tensor in tensors.items() if name not in of_optimizer}
    check_layout(others, expected, path, REMEDY)
    kept: dict[int, set[str]] = {}
    for name in of_optimizer:
        match = re.fullmatch(r"optimizer\.(\d{1,9})\.(\w+)", name)
        number = int(match[1]) if match else len(trainer.parameters)
        if not match or number >= len(trainer.parameters) or match[2] not in ADAM:
            raise files.WeightFileError(f"{path} has the unknown tensor {shown(name)}. {REMEDY}")
        parameter = trainer.parameters[number]
        shape, dtype = (torch.Size(), torch.float32) if match[2] == "step" else (parameter.shape, parameter.dtype)
        if tensors[name].shape != shape or tensors[name].dtype != dtype:
            found = f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            raise files.WeightFileError(f"{path} has {name} as {found}; expected {dtype} {tuple(shape)}. {REMEDY}")
        kept.setdefault(number, set()).add(match[2])
    if any(names != ADAM for names in kept.values()):
        raise files.WeightFileError(f"{path} lacks a part of the optimizer state. {REMEDY}")
    check_values(tensors, {}, path, REMEDY)
    return tensors
