"""Files of results: one JSON file per finished run, and the progress of an unfinished one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from action_heads._util.limits import check_fields, fits, shown
from action_heads.io import files
from action_heads.io.seal import Seal
from action_heads.training.checkpoint import changed
from action_heads_lab.reproduce.config import VERSION, Run

PROGRESS = "progress.json"  # in the folder of an unfinished run
PROVENANCE = ("machine", "command", "date")  # a result does not depend on these
PARTS = {  # values that a report reads
    "head.name": str,
    "head.fingerprint": str | None,
    "head.frozen": int,
    "head.trainable": int,
    "machine.gpu": str | None,
    "machine.processor": str,
    "machine.threads": int,
}
KINDS = {  # keys of a result file, which may also have `earlier` and `inputs`
    "id": str,
    "run": dict[str, Any],
    "episodes": list[dict[str, Any]],
    "head": dict[str, Any],
    "seconds": dict[str, float],
    "losses": list[float],
    "machine": dict[str, Any],
    "command": str,
    "date": str,
}


SEAL = Seal(
    (*PROVENANCE, "version", "rates"),
    "{path} was changed after it was written: its checksum is {found} instead of {given}. Delete it and run it again",
    key="checksum",
)


@dataclass(frozen=True)
class Episode:
    """The outcome of one rollout.

    `seed` is that of the start (on LIBERO the number of the init state), and `length` is in ticks.
    """

    task: str
    seed: int
    success: bool
    length: int
    video: str | None = None


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    `episodes` are those of the policy at the end of training, `earlier` those of earlier policies by training step.
    """

    id: str
    run: Run
    episodes: tuple[Episode, ...]
    head: dict[str, Any]  # name, fingerprint, frozen and trainable parameters
    seconds: dict[str, float]  # wall time of training, policy and environment; cpu is the total over all cores
    losses: list[float]  # means over consecutive training steps
    machine: dict[str, Any]
    command: str
    date: str
    earlier: dict[int, tuple[Episode, ...]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # a hash of each recording; none in older results

    @property
    def best(self) -> int:
        """The successes of the best checkpoint. The same episodes choose it and judge it."""
        return max(sum(episode.success for episode in part) for part in (self.episodes, *self.earlier.values()))

    @property
    def rolled_steps(self) -> int:
        """The ticks of all episodes of all checkpoints."""
        return sum(episode.length for part in (self.episodes, *self.earlier.values()) for episode in part)

    @property
    def successes(self) -> int:
        return sum(episode.success for episode in self.episodes)

    @property
    def env_steps_per_second(self) -> float:
        """The ticks per second of wall time outside the policy, over all workers."""
        return self.rolled_steps / max(self.seconds["environment"], 1e-9)

    @property
    def policy_share(self) -> float:
        """The policy's share of the wall time of the rollouts."""
        policy, environment = self.seconds["policy"], self.seconds["environment"]
        return policy / max(policy + environment, 1e-9)

    def __str__(self) -> str:
        return (
            f"{self.run}: {self.successes} of {len(self.episodes)} episodes succeed; training "
            f"{self.seconds['training']:.0f} s, {self.env_steps_per_second:.0f} simulated ticks/s, "
            f"{self.policy_share:.0%} of the rollout time in the policy"
        )


def path_of(results: Path, run: Run, identity: str) -> Path:
    """Return the path of a result: readable, and unique by its id."""
    return results / f"{run.task}-{run.backbone}-{run.mode}-s{run.seed}-{identity[:8]}.json"


def save(result: Result, path: Path) -> None:
    """Write a result in one piece, with one line per field and episode, so that a diff can be read."""
    record = json.loads(json.dumps(asdict(result))) | {"version": VERSION}
    if not result.inputs:
        del record["inputs"]
    if not result.run.assets:  # as in files of earlier releases
        del record["run"]["assets"]
    record["checksum"] = SEAL.of(record, {})
    record["rates"] = {
        "env_steps_per_second": round(result.env_steps_per_second, 1),
        "policy_share": round(result.policy_share, 3),
    }
    del record["earlier"]
    lines = {key: json.dumps(value) for key, value in record.items()}
    lines["episodes"] = _list(result.episodes)
    if result.earlier:
        parts = [f'"{step}": {_list(part)}' for step, part in result.earlier.items()]
        lines["earlier"] = "{\n" + ",\n".join(parts) + "}"
    files.write_text(path, "{\n" + ",\n".join(f'"{key}": {text}' for key, text in lines.items()) + "\n}\n")


def load(path: Path) -> Result:
    """Load a result.

    Raises:
        ValueError: another version of the protocol wrote it, or it was changed.
    """
    record = files.read_json(path)
    version = record.pop("version", None) if isinstance(record, dict) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"{path} has version {shown(version)} of the protocol, but this release has {VERSION}. Run it again"
        )
    whole = {"earlier": {}} | record
    record.pop("checksum", None)
    record.pop("rates", None)
    try:
        if record.keys() - {"earlier", "inputs"} != KINDS.keys():
            raise ValueError(f"it needs {', '.join(KINDS)}, but has {', '.join(record)}")
        if wrong := [name for name, kind in KINDS.items() if not fits(record[name], kind)]:
            raise ValueError(f"these have a wrong type: {', '.join(wrong)}")
        if not fits(record.get("inputs", {}), dict[str, str]):
            raise ValueError(f"its inputs are {shown(record['inputs'])}")
        for key, kind in PARTS.items():
            name, part = key.split(".")
            if part not in record[name] or not fits(record[name][part], kind):
                raise ValueError(f"{key} is {shown(record[name].get(part, 'missing'))}")
        if lacking := [key for key in ("training", "policy", "environment", "cpu") if key not in record["seconds"]]:
            raise ValueError(f"its seconds lack {', '.join(lacking)}")
        record["run"] = Run.from_dict(record["run"])
        record["episodes"] = _episodes(record["episodes"])
        record["earlier"] = _by_step(record.get("earlier", {}))
        result = Result(**record)
        _check_sense(result)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not the result of a run ({error}). Delete it and run it again") from error
    SEAL.check(whole, {}, path)  # results of older releases have no checksum
    return result


def refuse_changed(path: Path, theirs: Mapping[str, str], inputs: Mapping[str, str], remedy: str) -> None:
    """Raise a ValueError if a file is of a run with other contents of a recording than there are now.

    Runs of one table would otherwise be trained on different demonstrations.
    """
    if names := changed(inputs, theirs):
        raise ValueError(
            f"{path} is of a run with other contents of {', '.join(names)}, which have changed since. Restore them, "
            f"{remedy}"
        )


def _check_sense(result: Result) -> None:
    """Check that the parts of a result fit each other."""
    count = result.run.episodes
    for part in (result.episodes, *result.earlier.values()):
        if not part or len(part) % count or len(part) != len(result.episodes):
            raise ValueError(f"it has {len(part)} episodes, but its run rolls out {count} of each task")
    if sorted([*result.earlier, result.run.steps]) != result.run.checkpoint_steps:
        raise ValueError(
            f"it has checkpoints {sorted(result.earlier)}, but its run has {result.run.checkpoint_steps[:-1]}"
        )
    if negative := [name for name, value in result.seconds.items() if value < 0]:
        raise ValueError(f"its seconds of {', '.join(negative)} are negative")
    of_states = result.run.observation == "state" and result.run.uses_pretraining
    if of_states and result.id != result.run.identity(str(result.head["fingerprint"])):
        raise ValueError(f"its id {result.id} is not that of its settings and its head, so it was changed")


def by_recipe(folder: Path, run: Run, head: str) -> Path | None:
    """Return the file of a finished run whose head was pretrained under this name, or None.

    The name contains a hash of the settings of Stage 1, see `heads.stage1`, but does not depend on the processor.
    """
    for path in sorted(folder.glob(f"{run.task}-{run.backbone}-{run.mode}-s{run.seed}-*.json")):
        found = load(path)
        if found.run == run and found.head["name"] == head:
            return path
    return None


def load_all(folder: Path) -> list[Result]:
    """Load every result in a folder and its subfolders, ordered by name."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}. examples/robosuite/reproduce.py writes outputs/reproduce/results/robosuite"
        )
    if (folder / "results").is_dir() and (folder / "runs").is_dir():
        raise ValueError(
            f"{folder} is the folder that reproduce.py works in, with more than results. Give {folder / 'results'}"
        )
    return [load(path) for path in sorted(folder.rglob("*.json"))]


@dataclass
class Progress:
    """The progress of an unfinished run: episodes by the training step of their policy, times and losses."""

    path: Path
    seconds: dict[str, float]
    losses: list[float]
    rolled: dict[int, list[Episode]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # as in `Result`

    @classmethod
    def begin(cls, path: Path, training: float, cpu: float, losses: Iterable[float]) -> Progress:
        """Save the progress of a run after training, with its seconds of wall time and of CPU time."""
        seconds = {"training": training, "policy": 0.0, "environment": 0.0, "cpu": cpu}
        return cls(path, seconds, [round(loss, 5) for loss in losses]).save()

    @classmethod
    def load(cls, path: Path) -> Progress:
        """Load the progress of a run. Raises ValueError if the file is damaged."""
        record = files.read_json(path)
        kinds = {"seconds": dict[str, float], "losses": list[float], "rolled": dict[str, list[dict[str, Any]]]}
        try:
            whole = {"earlier": {}} | record if isinstance(record, dict) else {}
            if not isinstance(record, dict) or record.keys() - {SEAL.key, "inputs"} != kinds.keys():
                raise ValueError(f"it needs {', '.join(kinds)}")
            if wrong := [name for name, kind in kinds.items() if not fits(record[name], kind)]:
                raise ValueError(f"these have a wrong type: {', '.join(wrong)}")
            if not fits(inputs := record.get("inputs", {}), dict[str, str]):
                raise ValueError(f"its inputs are {shown(inputs)}")
            rolled = {step: list(part) for step, part in _by_step(record.pop("rolled")).items()}
            progress = cls(path, record["seconds"], record["losses"], rolled, inputs)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not the progress of a run ({error}). Delete it and run it again") from error
        SEAL.check(whole, {}, path)
        return progress

    def save(self) -> Progress:
        rolled = {str(step): [asdict(episode) for episode in part] for step, part in self.rolled.items()}
        record: dict[str, Any] = {"seconds": self.seconds, "losses": self.losses, "rolled": rolled}
        record |= {"inputs": self.inputs} if self.inputs else {}
        files.write_text(self.path, json.dumps(record | {"checksum": SEAL.of({"earlier": {}} | record, {})}) + "\n")
        return self


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its ended children. Wall time says little on a shared machine."""
    return sum(os.times()[:4])


def _by_step(records: Any) -> dict[int, tuple[Episode, ...]]:
    """Return episodes by the training step of their policy, which JSON stores as text."""
    if not fits(records, dict[str, list[dict[str, Any]]]) or not all(step.isdecimal() for step in records):
        raise ValueError(f"expected lists of episodes by training step, got {shown(records)}")
    return {int(step): _episodes(part) for step, part in records.items()}


def _episodes(records: Iterable[Mapping[str, Any]]) -> tuple[Episode, ...]:
    for record in records:
        check_fields({"video": None} | dict(record), Episode, "an episode")
    return tuple(Episode(**record) for record in records)


def _list(episodes: Iterable[Episode]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(asdict(episode))}" for episode in episodes) + "\n]"
