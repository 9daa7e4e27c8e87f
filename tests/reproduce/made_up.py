"""Made-up results for tests of tables."""

from __future__ import annotations

import numpy as np
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.results import Episode, Result


def result(run: Run, successes: list[bool] | None = None, head: str = "h", **changes) -> Result:
    """Return a result of a run, in which half of the episodes succeed by default."""
    successes = [i % 2 == 0 for i in range(run.episodes)] if successes is None else successes
    episodes = tuple(Episode(run.task, seed, success, 40) for seed, success in enumerate(successes))
    return Result(
        **{
            "id": run.identity(head),
            "run": run,
            "episodes": episodes,
            "head": {"name": "head", "fingerprint": head, "frozen": 10, "trainable": 5},
            "seconds": {"training": 60.0, "policy": 10.0, "environment": 30.0, "cpu": 90.0},
            "losses": [1.0, 0.5],
            "machine": {"gpu": None, "threads": 1, "processor": "a processor"},
            "command": "uv run examples/robosuite/reproduce.py",
            "date": "2026-01-01",
            **changes,
        }
    )


def outcomes(rate: float, episodes: int, seed: int) -> list[bool]:
    """Return random successes."""
    return (np.random.default_rng(seed).random(episodes) < rate).tolist()
