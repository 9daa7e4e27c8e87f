"""What a run needs to go on where it stopped: tensors in safetensors, the rest in JSON, nothing pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from action_heads import files
from action_heads.training import saved

if TYPE_CHECKING:
    from action_heads.training.base import Training

POINT_EVERY = 50  # steps between points of the training curve


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
    record: dict[str, Any] = {
        "config": trainer.settings(),
        "precision": "bf16" if trainer.accelerator.mixed_precision == "bf16" else "fp32",
        "tensors": name,
        "step": trainer.step,
        "progress": asdict(trainer.progress),
    }
    record["fingerprint"] = saved.fingerprint(record, tensors)
    files.write_text(folder / "state.json", json.dumps(record))
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def read(folder: Path) -> dict[str, Any] | None:
    """The record of a run, if there is one."""
    return saved.read(folder / "state.json") if (folder / "state.json").exists() else None


def refuse_others(settings: dict[str, Any], out: Path, name: str = "config.json", what: str = "head") -> None:
    """Raise if a folder holds a run, or what one has made, of other settings: a run overwrites nothing by accident.

    What was made is a head or a policy, with the settings in its file `name`.
    """
    if (record := read(out / "state")) is not None:
        if different := _differ(settings, record["config"]):
            raise ValueError(
                f"{out / 'state'} holds a run with other settings ({', '.join(different)}): "
                "give the same ones to go on with it, or another --out to start anew"
            )
    elif (out / name).exists():
        theirs = saved.settings_in(out / name)
        different = _differ(settings, theirs or {})
        if different:
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
        tensors = saved.load(trainer, record, folder)
        trainer.load_state_dict(tensors, record["step"])
        history = record["progress"]
        curves = {name: [tuple(point) for point in history[name]] for name in saved.CURVES}
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
