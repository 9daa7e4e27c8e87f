"""The results folder: one JSON a finished run, and the part of an unfinished one that need not be done again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    """Read a result back.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no result, damaged, or of another version of the protocol. The message names the file.
    """
    record = read(path)
    version = record.pop("version", None)
    if version != VERSION:
        raise ValueError(f"{path} is of version {version!r} of the protocol, this release has {VERSION}: run it again")
    record.pop("rates", None)
    with naming(path, "no result of a run"):
        run = Run.from_dict(checked("run", record.get("run"), dict))
        episodes = _episodes(record.get("episodes"), "episodes")
        parts = checked("earlier", record.get("earlier", {}), dict).items()
        earlier = {int(step): _episodes(part, f"earlier[{step}]") for step, part in parts}
        result = Result(**record | {"run": run, "episodes": episodes, "earlier": earlier})
        _check(result)
    return result


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
    def load(cls, path: Path) -> Progress:
        """Read what was saved; the `ValueError` of a damaged file names it."""
        record = read(path)
        with naming(path, "no record of an unfinished run"):
            parts = checked("rolled", record.pop("rolled", None), dict).items()
            rolled = {int(step): list(_episodes(part, f"rolled[{step}]")) for step, part in parts}
            found = cls(path, **record, rolled=rolled)
            for name, value in checked("seconds", found.seconds, dict).items():
                _check_seconds(name, value)
            _check_losses(found.losses)
        return found

    def save(self) -> Progress:
        rolled = {step: [asdict(episode) for episode in part] for step, part in self.rolled.items()}
        record = {"seconds": self.seconds, "losses": self.losses, "rolled": rolled}
        files.write_text(self.path, json.dumps(record) + "\n")
        return self


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object; the `ValueError` of anything else names the file."""
    try:
        record = files.read_json(path)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be a result; delete it and run it again") from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run it again") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__} in place of an object; delete it and run it again")
    return record


@contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into a `ValueError` that names it."""
    try:
        yield
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is {what} ({error}); delete it and run it again") from error


def checked(name: str, value: Any, *kinds: type) -> Any:
    """Return a value of one of these types; true and false are no numbers."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{name} must be of type {names}, got {str(value)[:80]!r}")
    return value


def _check(result: Result) -> None:
    """Check the types of all that a report reads, and that the parts fit each other."""
    for name in ("id", "command", "date"):
        checked(name, getattr(result, name), str)
    head = checked("head", result.head, dict)
    checked("head.name", head["name"], str)
    checked("head.fingerprint", head["fingerprint"], str, type(None))
    for name in ("frozen", "trainable"):
        if checked(f"head.{name}", head[name], int) < 0:
            raise ValueError(f"head.{name} is {head[name]}")
    for name in ("training", "policy", "environment", "cpu"):
        _check_seconds(name, checked("seconds", result.seconds, dict)[name])
    _check_losses(result.losses)
    machine = checked("machine", result.machine, dict)
    checked("machine.gpu", machine["gpu"], str, type(None))
    checked("machine.processor", machine["processor"], str)
    checked("machine.threads", machine["threads"], int)
    for part in (result.episodes, *result.earlier.values()):
        if not part or len(part) % result.run.episodes or len(part) != len(result.episodes):
            raise ValueError(f"it has {len(part)} episodes, where its run rolls out {result.run.episodes} of each task")
    if sorted([*result.earlier, result.run.steps]) != result.run.checkpoint_steps:
        raise ValueError(f"it has checkpoints {sorted(result.earlier)}, its run has {result.run.checkpoint_steps[:-1]}")
    of_states = result.run.observation == "state" and result.run.uses_pretraining
    if of_states and result.id != result.run.identity(str(head["fingerprint"])):
        raise ValueError(f"its id {result.id} is not that of its settings and its head: it was changed")


def _check_seconds(name: str, value: Any) -> None:
    if not (math.isfinite(checked(f"seconds.{name}", value, int, float)) and value >= 0):
        raise ValueError(f"seconds.{name} is {value}")


def _check_losses(losses: Any) -> None:
    for loss in checked("losses", losses, list):
        checked("losses", loss, int, float)


def _episodes(records: Any, name: str) -> tuple[Episode, ...]:
    found = tuple(Episode(**checked(name, record, dict)) for record in checked(name, records, list))
    for episode in found:
        checked(f"{name}.task", episode.task, str)
        checked(f"{name}.success", episode.success, bool)
        checked(f"{name}.video", episode.video, str, type(None))
        if checked(f"{name}.seed", episode.seed, int) < 0 or checked(f"{name}.length", episode.length, int) < 0:
            raise ValueError(f"{name} has a seed of {episode.seed} and a length of {episode.length}")
    return found


def _list(episodes: Iterable[Episode]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(asdict(episode))}" for episode in episodes) + "\n]"
