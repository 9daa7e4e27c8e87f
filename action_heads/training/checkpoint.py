"""What a run needs to go on where it stopped: tensors in safetensors, the rest in JSON, nothing pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from action_heads.io import drafts, files
from action_heads.training import checkpoint_checks

if TYPE_CHECKING:
    from action_heads.training.base import Training

POINT_EVERY = 50  # steps between points of the training curve
BEGUN, STATE = "run.json", "state.json"  # the settings, from before the first step; the last saved step
MADE = {"config.json": "head", "policy.json": "policy"}  # what a finished run leaves, with its settings in it


@dataclass
class Progress:
    """History of a run, as it goes into its record."""

    seconds: float = 0.0  # in all
    training_seconds: float = 0.0  # without evaluating and saving
    average: float | None = None  # of the training loss
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, average)
    held_out: list[tuple[int, float]] = field(default_factory=list)  # (step, loss of the averaged weights)

    def add(self, step: int, loss: float) -> None:
        """The loss of a step."""
        self.average = loss if self.average is None else 0.98 * self.average + 0.02 * loss
        if step % POINT_EVERY == 0:
            self.curve.append((step, self.average))


def save(trainer: Training, folder: Path) -> None:
    """Tensors first, then the record that names them: a cut in between leaves the older, complete state."""
    name = f"step-{trainer.step}.safetensors"
    tensors = trainer.state_dict()
    files.save_tensors(tensors, folder / name)
    record = _settled(trainer) | {
        "tensors": name,
        "step": trainer.step,
        "progress": asdict(trainer.progress),
    }
    record["fingerprint"] = checkpoint_checks.SEAL.of(record, tensors)
    files.write_text(folder / STATE, json.dumps(record))
    _remove_others(folder, name)


def begin(trainer: Training, folder: Path) -> None:
    """Write the settings down before the first step, and remove what killed runs have left of their saving."""
    if not trainer.accelerator.is_main_process:
        return
    record = read(folder)
    drafts.sweep(folder, [BEGUN, STATE, "step-*.safetensors"])
    _remove_others(folder, record["tensors"] if record else "")
    if begun(folder) is None:
        files.write_text(folder / BEGUN, json.dumps(_settled(trainer)))


def _settled(trainer: Training) -> dict[str, Any]:
    """What a run that goes on must agree with."""
    precision = "bf16" if trainer.accelerator.mixed_precision == "bf16" else "fp32"
    return {"config": trainer.settings(), "precision": precision}


def _remove_others(folder: Path, name: str) -> None:
    """Remove the tensors of other steps than that of the record."""
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read(folder: Path) -> dict[str, Any] | None:
    """The record of the last saved step, if there is one."""
    return checkpoint_checks.read(folder / STATE) if (folder / STATE).exists() else None


def begun(folder: Path) -> dict[str, Any] | None:
    """The settings and the precision of a run that has begun, whether a step was saved or not."""
    return checkpoint_checks.read_settings(folder / BEGUN) if (folder / BEGUN).exists() else read(folder)


def refuse_others(settings: dict[str, Any], out: Path) -> None:
    """Raise if a folder holds a run, or what one has made, of other settings: a run overwrites nothing by accident."""
    if (record := begun(out / "state")) is not None:
        if different := _differ(settings, record["config"]):
            anew = "" if read(out / "state") else f"; it has saved no step yet, so {out / 'state'} can be deleted too"
            raise ValueError(
                f"{out / 'state'} holds a run with other settings ({', '.join(different)}): "
                f"give the same ones to go on with it, or another --out to start anew{anew}"
            )
        return
    for name, what in MADE.items():
        if not (out / name).exists():
            continue
        theirs = checkpoint_checks.settings_in(out / name) or {}
        if different := _differ(settings, theirs):
            which = f"made with other settings ({', '.join(different)})" if theirs else "whose settings are not known"
            raise ValueError(
                f"{out} holds a finished {what} {which}, which this run would overwrite: give another --out, or delete "
                f"that folder if the {what} is not needed"
            )


def _differ(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return sorted(key for key in ours if theirs.get(key) != ours[key])


def resume(trainer: Training, folder: Path) -> None:
    """Go on where the run stopped; the trainer has made sure that it is one with the same settings."""
    record = read(folder)
    if record is not None:
        tensors = checkpoint_checks.load(trainer, record, folder)
        trainer.load_state_dict(tensors, record["step"])
        history = record["progress"]
        curves: dict[str, Any] = {name: [tuple(point) for point in history[name]] for name in checkpoint_checks.CURVES}
        trainer.progress = Progress(**history | curves)
    agree(trainer, folder)


def agree(trainer: Training, folder: Path) -> None:
    """All processes are at the same step, or training would wait forever."""
    accelerator = trainer.accelerator
    steps = accelerator.gather(torch.tensor([trainer.step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes would start from different steps, {steps}: {folder} must lie where all of them can read it"
        )
