"""The results folder: one JSON a finished run, and the part of an unfinished one that need not be done again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
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
    """A finished run: its id, its settings, what it was done with, and every episode."""

    id: str
    run: Run
    episodes: tuple[Episode, ...]
    head: dict[str, Any]  # name, fingerprint, frozen and trainable parameters
    seconds: dict[str, float]  # wall time of training, policy and environment; cpu: of all cores, in all of them
    losses: list[float]  # means of consecutive steps
    machine: dict[str, Any]
    command: str
    date: str

    @property
    def successes(self) -> int:
        return sum(episode.success for episode in self.episodes)

    @property
    def env_steps_per_second(self) -> float:
        """Of all workers together, in wall time outside the policy."""
        return sum(episode.length for episode in self.episodes) / max(self.seconds["environment"], 1e-9)

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
    lines = {key: json.dumps(value) for key, value in record.items()}
    lines["episodes"] = _list(map(asdict, result.episodes))
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
        record["episodes"] = tuple(Episode(**episode) for episode in record["episodes"])
        return Result(**record)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no result of a run ({error}); delete it and run it again") from error


def load_all(folder: Path) -> list[Result]:
    """Every result in a folder and below, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; examples/robosuite/reproduce.py fills results/robosuite")
    return [load(path) for path in sorted(folder.rglob("*.json"))]


def save_partial(path: Path, episodes: Iterable[Episode], seconds: dict[str, float], losses: list[float]) -> None:
    """What has been done of a run so far."""
    record = {"episodes": [asdict(episode) for episode in episodes], "seconds": seconds, "losses": losses}
    files.write_text(path, json.dumps(record) + "\n")


def load_partial(path: Path) -> tuple[list[Episode], dict[str, float], list[float]]:
    """What `save_partial` wrote."""
    record = files.read_json(path)
    return [Episode(**episode) for episode in record["episodes"]], record["seconds"], record["losses"]


def _list(items: Iterable[dict]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in items) + "\n]"
