"""The results folder: one JSON a finished run, and the part of an unfinished one that need not be done again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from action_heads import files
from action_heads.reproduce.config import VERSION, Run


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
    record = asdict(result) | {"version": VERSION}
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
    """Read a result back, refusing what another version of the protocol wrote."""
    record = files.read_json(path)
    version = record.pop("version", None) if isinstance(record, dict) else None
    if version != VERSION:
        raise ValueError(f"{path} is of version {version} of the protocol, this release has {VERSION}: run it again")
    del record["rates"]
    try:
        record["run"] = Run.from_dict(record["run"])
        record["episodes"] = _episodes(record["episodes"])
        record["earlier"] = {int(step): _episodes(part) for step, part in record.get("earlier", {}).items()}
        return Result(**record)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no result of a run ({error}); delete it and run it again") from error


def load_all(folder: Path) -> list[Result]:
    """Every result in a folder and below, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; examples/robosuite/reproduce.py fills results/robosuite")
    return [load(path) for path in sorted(folder.rglob("*.json"))]


@dataclass
class Progress:
    """What has been done of an unfinished run: episodes by the training steps of their policy, times and losses."""

    path: Path
    seconds: dict[str, float]
    losses: list[float]
    rolled: dict[int, list[Episode]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Progress:
        record = files.read_json(path)
        rolled = {int(step): list(_episodes(part)) for step, part in record.pop("rolled").items()}
        return cls(path, **record, rolled=rolled)

    def save(self) -> Progress:
        rolled = {step: [asdict(episode) for episode in part] for step, part in self.rolled.items()}
        record = {"seconds": self.seconds, "losses": self.losses, "rolled": rolled}
        files.write_text(self.path, json.dumps(record) + "\n")
        return self


def _episodes(records: Iterable[Mapping[str, Any]]) -> tuple[Episode, ...]:
    return tuple(Episode(**record) for record in records)


def _list(episodes: Iterable[Episode]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(asdict(episode))}" for episode in episodes) + "\n]"
