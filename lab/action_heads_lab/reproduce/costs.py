"""Estimate the CPU seconds of runs: the work of a run times the rates of finished ones.

A run trains on chunks and rolls out ticks, and the time of each depends little on the task. So a short trial with few
training steps and episodes predicts the cost of a whole run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from action_heads import golden
from action_heads_lab.reproduce import heads
from action_heads_lab.reproduce.config import EXPERTS, Run
from action_heads_lab.reproduce.families import family_of
from action_heads_lab.reproduce.heads import PAPER, SMALL
from action_heads_lab.reproduce.results import Result
from action_heads_lab.sim.tasks import get_task

# Rates until a run has finished: rounded medians of the runs in results/, on states, on one core of an AMD EPYC.
CHUNK, STEP = 4e-4, 6e-3  # CPU seconds per chunk of training with a small head, and per tick of a rollout
LARGER = 5.0  # cost of a chunk with a head of the paper's size, relative to a small one
SHARE = 0.5  # used share of the ticks that a task allows, since episodes end with success
STAGE_1 = {SMALL: 8e-4, PAPER: 4e-3}  # CPU seconds per chunk
BATCH = 128  # of Stage 1
START = 20.0  # CPU seconds to start the simulation of a task, as for LIBERO-Object's ten on an Intel Xeon


def chunks(run: Run) -> int:
    """Return the number of chunks that Stage 2 trains on, counted once per noise sample."""
    return run.steps * run.batch_size * run.noise_samples


def most_steps(run: Run) -> int:
    """Return the ticks of all rollouts of a run if no episode ends early."""
    tasks = family_of(run).subtasks(run)
    return run.episodes * run.checkpoints * sum(get_task(task).rollout_steps for task in tasks)


class Costs:
    """Rates of finished runs, grouped by what runs have in common."""

    def __init__(self, found: Iterable[Result]):
        self._rates: dict[tuple, list[tuple[float, float, float]]] = {}
        for result in found:
            seconds, run = result.seconds, result.run
            wall = seconds["training"] + seconds["policy"] + seconds["environment"]
            training = seconds["cpu"] * seconds["training"] / wall if wall else 0.0
            steps = max(result.rolled_steps, 1)
            rates = (training / chunks(run), (seconds["cpu"] - training) / steps, steps / most_steps(run))
            for key in _alike(run):
                self._rates.setdefault(key, []).append(rates)

    def knows(self, run: Run) -> bool:
        """Return whether a run with the same kind of observation has finished."""
        return _alike(run)[-1] in self._rates

    def seconds(self, run: Run) -> float:
        """Return the CPU seconds of a run without recording and Stage 1, a guess if no similar run has finished."""
        known = [self._rates[key] for key in _alike(run) if key in self._rates]
        larger = 1.0 if run.head == SMALL else LARGER
        training, step, share = map(statistics.median, zip(*known[0], strict=True)) if known else (None, STEP, SHARE)
        if training is None or not any(key[1:2] == (run.head,) for key in _alike(run) if key in self._rates):
            training = CHUNK * larger  # the time of a chunk depends on the head, so rates of other heads do not apply
        starting = 0.0 if known else START * len(family_of(run).subtasks(run))  # in the rates of finished runs
        return training * chunks(run) + step * share * most_steps(run) + starting


def _alike(run: Run) -> tuple[tuple, ...]:
    """Return the groups that share a rate with a run, the most similar first."""
    seen, head = run.observation, run.head
    return (seen, head, run.task, run.backbone), (seen, head, run.task), (seen, head, run.family), (seen, head), (seen,)


def preparing(left: Sequence[Run], work: Path) -> float:
    """Return a guess of the CPU seconds of the recordings and of Stage 1 that are not yet in `work`."""
    recordings, pretrained = {}, {}
    for run in left:
        config = heads.stage1(run, work)
        if config and heads.needs_stage1(run) and not (config.folder / golden.NAME).exists():
            size = run.head if run.head in STAGE_1 else PAPER
            pretrained[config.folder] = STAGE_1[size] * config.optimiser.steps * BATCH
        for task in family_of(run).subtasks(run) if run.data == EXPERTS else []:
            path = family_of(run).recording_path(task, run, work)
            if not path.exists():
                recordings[path] = START + STEP * run.demos * SHARE * get_task(task).expert_steps
    return sum(recordings.values()) + sum(pretrained.values())
