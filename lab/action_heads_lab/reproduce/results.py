"""The results folder: one JSON a finished run, and the part of an unfinished one that need not be done again."""

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
from action_heads_lab.reproduce.config import LATER, VERSION, Run

PROGRESS = "progress.json"  # in the folder of an unfinished run
PROVENANCE = ("machine", "command", "date")  # what a result does not depend on
PARTS = {  # of which a report reads the values
    "head.name": str,
    "head.fingerprint": str | None,
    "head.frozen": int,
    "head.trainable": int,
    "machine.gpu": str | None,
    "machine.processor": str,
    "machine.threads": int,
}
KINDS = {  # what a result's file holds, beside `earlier`
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
    "{path} was changed since it was written: its checksum is another; delete it and run it again",
    key="checksum",
)


@dataclass(frozen=True)
class Episode:
    """One rollout: `seed` is that of the start (on LIBERO the number of the init state), `length` in control steps."""

    task: str
    seed: int
    success: bool
    length: int
    video: str | None = None


@dataclass(frozen=True)
class Result:
    """A finished run: its id, its settings, what it was done with, and every episode.

    `episodes` are of the policy at the end of training, `earlier` of those after so many steps.
    """

    id: str
    run: Run
    episodes: tuple[Episode, ...]
    head: dict[str, Any]  # name, fingerprint, frozen and trainable parameters
    seconds: dict[str, float]  # wall time of training, policy and environment; cpu: of all cores, in all of them
    losses: list[float]  # means of consecutive steps
    machine: dict[str, Any]
    command: str
    date: str
    earlier: dict[int, tuple[Episode, ...]] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """Successes of the checkpoint that has most, the last one among them: chosen by what it is then judged by."""
        return max(sum(episode.success for episode in part) for part in (self.episodes, *self.earlier.values()))

    @property
    def rolled_steps(self) -> int:
        """Control steps of all episodes of all checkpoints."""
        return sum(episode.length for part in (self.episodes, *self.earlier.values()) for episode in part)

    @property
    def successes(self) -> int:
        return sum(episode.success for episode in self.episodes)

    @property
    def env_steps_per_second(self) -> float:
        """Of all workers together, in wall time outside the policy."""
        return self.rolled_steps / max(self.seconds["environment"], 1e-9)

    @property
    def policy_share(self) -> float:
        """Of the rollouts' wall time."""
        policy, environment = self.seconds["policy"], self.seconds["environment"]
        return policy / max(policy + environment, 1e-9)

    def __str__(self) -> str:
        return (
            f"{self.run}: {self.successes} of {len(self.episodes)} succeed; training {self.seconds['training']:.0f} s, "
            f"{self.env_steps_per_second:.0f} env steps/s, policy {self.policy_share:.0%} of the rollouts' time"
        )


def path_of(results: Path, run: Run, identity: str) -> Path:
    """One a run: readable, and by its id unique."""
    return results / f"{run.task}-{run.backbone}-{run.mode}-s{run.seed}-{identity[:8]}.json"


def save(result: Result, path: Path) -> None:
    """Whole or not at all; a line a field, a line an episode, so that a diff can be read."""
    record = json.loads(json.dumps(asdict(result))) | {"version": VERSION}
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
    """Read a result back, refusing what another version of the protocol wrote and what was changed since."""
    record = files.read_json(path)
    version = record.pop("version", None) if isinstance(record, dict) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"{path} is of version {shown(version)} of the protocol, this release has {VERSION}: run it again"
        )
    whole = {"earlier": {}} | record
    record.pop("checksum", None)
    record.pop("rates", None)
    try:
        if record.keys() - {"earlier"} != KINDS.keys():
            raise ValueError(f"it needs {', '.join(KINDS)}, and has {', '.join(record)}")
        if wrong := [name for name, kind in KINDS.items() if not fits(record[name], kind)]:
            raise ValueError(f"of another type than expected: {', '.join(wrong)}")
        for key, kind in PARTS.items():
            name, part = key.split(".")
            if part not in record[name] or not fits(record[name][part], kind):
                raise ValueError(f"{key} is {shown(record[name].get(part, 'missing'))}")
        if lacking := [key for key in ("training", "policy", "environment", "cpu") if key not in record["seconds"]]:
            raise ValueError(f"its seconds lack {', '.join(lacking)}")
        run = Run.from_dict(record["run"])
        check_fields(LATER | record["run"], Run, "the run")
        record["run"] = run
        record["episodes"] = _episodes(record["episodes"])
        record["earlier"] = _by_step(record.get("earlier", {}))
        result = Result(**record)
        _check_sense(result)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no result of a run ({error}); delete it and run it again") from error
    SEAL.check(whole, {}, path)  # those of older releases have no checksum
    return result


def _check_sense(result: Result) -> None:
    """Check that the parts of a result fit each other."""
    count = result.run.episodes
    for part in (result.episodes, *result.earlier.values()):
        if not part or len(part) % count or len(part) != len(result.episodes):
            raise ValueError(f"it has {len(part)} episodes, where its run rolls out {count} of each task")
    if sorted([*result.earlier, result.run.steps]) != result.run.checkpoint_steps:
        raise ValueError(f"it has checkpoints {sorted(result.earlier)}, its run has {result.run.checkpoint_steps[:-1]}")
    if negative := [name for name, value in result.seconds.items() if value < 0]:
        raise ValueError(f"its seconds of {', '.join(negative)} are negative")
    of_states = result.run.observation == "state" and result.run.uses_pretraining
    if of_states and result.id != result.run.identity(str(result.head["fingerprint"])):
        raise ValueError(f"its id {result.id} is not that of its settings and its head: it was changed")


def by_recipe(folder: Path, run: Run, head: str) -> Path | None:
    """The file of a finished run whose head was pretrained under this name, on whatever processor.

    The name has a hash of the settings of Stage 1, see `heads.stage1`.
    """
    for path in sorted(folder.glob(f"{run.task}-{run.backbone}-{run.mode}-s{run.seed}-*.json")):
        found = load(path)
        if found.run == run and found.head["name"] == head:
            return path
    return None


def load_all(folder: Path) -> list[Result]:
    """Every result in a folder and below, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; examples/robosuite/reproduce.py fills outputs/reproduce/results/robosuite"
        )
    return [load(path) for path in sorted(folder.rglob("*.json"))]


@dataclass
class Progress:
    """What has been done of an unfinished run: episodes by the training steps of their policy, times and losses."""

    path: Path
    seconds: dict[str, float]
    losses: list[float]
    rolled: dict[int, list[Episode]] = field(default_factory=dict)

    @classmethod
    def begin(cls, path: Path, training: float, cpu: float, losses: Iterable[float]) -> Progress:
        """Save that a run has trained, in so many seconds of wall time and of the CPU, and not rolled out yet."""
        seconds = {"training": training, "policy": 0.0, "environment": 0.0, "cpu": cpu}
        return cls(path, seconds, [round(loss, 5) for loss in losses]).save()

    @classmethod
    def load(cls, path: Path) -> Progress:
        record = files.read_json(path)
        kinds = {"seconds": dict[str, float], "losses": list[float], "rolled": dict[str, list[dict[str, Any]]]}
        try:
            whole = {"earlier": {}} | record if isinstance(record, dict) else {}
            if not isinstance(record, dict) or record.keys() - {SEAL.key} != kinds.keys():
                raise ValueError(f"it needs {', '.join(kinds)}")
            if wrong := [name for name, kind in kinds.items() if not fits(record[name], kind)]:
                raise ValueError(f"of another type than expected: {', '.join(wrong)}")
            rolled = {step: list(part) for step, part in _by_step(record.pop("rolled")).items()}
            progress = cls(path, record["seconds"], record["losses"], rolled)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no progress of a run ({error}); delete it and run it again") from error
        SEAL.check(whole, {}, path)
        return progress

    def save(self) -> Progress:
        rolled = {str(step): [asdict(episode) for episode in part] for step, part in self.rolled.items()}
        record = {"seconds": self.seconds, "losses": self.losses, "rolled": rolled}
        files.write_text(self.path, json.dumps(record | {"checksum": SEAL.of({"earlier": {}} | record, {})}) + "\n")
        return self


def cpu_seconds() -> float:
    """Return those of this process and of the ones it has ended: on a shared machine wall time says little."""
    return sum(os.times()[:4])


def _by_step(records: Any) -> dict[int, tuple[Episode, ...]]:
    """Episodes by the training steps of their policy, which are texts in JSON."""
    if not fits(records, dict[str, list[dict[str, Any]]]) or not all(step.isdecimal() for step in records):
        raise ValueError(f"episodes by steps are lists by numbers, got {shown(records)}")
    return {int(step): _episodes(part) for step, part in records.items()}


def _episodes(records: Iterable[Mapping[str, Any]]) -> tuple[Episode, ...]:
    for record in records:
        check_fields({"video": None} | dict(record), Episode, "an episode")
    return tuple(Episode(**record) for record in records)


def _list(episodes: Iterable[Episode]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(asdict(episode))}" for episode in episodes) + "\n]"
