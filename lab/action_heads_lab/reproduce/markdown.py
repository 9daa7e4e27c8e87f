"""Write tables of results in Markdown, with intervals, tests and costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from action_heads_lab.reproduce.cells import Table
from action_heads_lab.reproduce.config import ALL_MODES
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.statistics import paired, rate, spread

SPREAD = (
    "**Spread of training seeds, in points.** The standard deviation of the success rates of a task's training seeds, "
    "as its root mean square over the tasks. In brackets: what is expected from episodes alone if all seeds of a task "
    "were equally good."
)


def intervals(unit: str) -> str:
    """Return the text on intervals and differences, for policies of one `unit`, such as a task."""
    return (
        "Intervals of rates are Wilson's 95 % intervals over episodes, without the spread of training seeds. ± and p "
        "of the differences are over episodes (McNemar's exact test) or, where their error is larger, over training "
        f"seeds (a t test on the differences of each {unit}'s runs). With one training seed they do not cover what "
        "another seed would change."
    )


def titled(table: Table, title: str, tasks: Iterable[str]) -> str:
    """Return a table under its title, with those of the tasks that were run, and below it what they cost."""
    done = [task for task in tasks if any(key.task == task for key in table.cells)]
    backbones = list(dict.fromkeys(key.backbone for key in table.cells))
    return "\n\n".join([f"**{title}.**", modes_table(table, done, backbones), cost(table.results)])


def modes_table(table: Table, tasks: Sequence[str], backbones: Sequence[str]) -> str:
    """Return a row for each task and backbone, and one over all tasks that were run in every mode."""
    modes = (*ALL_MODES, "blind")
    header = [table.family.unit, "backbone", *modes, "decoupled − normal", "decoupled − random-frozen"]
    lines = [f"| {' | '.join(header)} |", f"|---|---|{'---:|' * (len(header) - 2)}"]
    for backbone in backbones:
        for task in tasks:
            lines.append(_row(task, backbone, {mode: table.cell(task, backbone, mode) for mode in modes}))
        pooled = table.pooled(backbone)
        pairs = [(r.run.task, r.run.seed) for r in pooled[ALL_MODES[0]]]
        whole, seeds = ({*values} for values in zip(*pairs, strict=True)) if pairs else ((), ())
        if len(whole) > 1:
            cells = [cell for task in tasks for cell in table.modes(task, backbone).values()]
            left_out = sum(map(len, cells)) - sum(map(len, pooled.values()))
            label = f"**{len(whole)} {table.family.unit}s**"
            if left_out:
                label += f", without {left_out} run{'s' * (left_out > 1)} that a mode lacks"
            lines.append(_row(label, backbone, pooled | {"blind": None}, by_seed=len(pairs) == len(whole) * len(seeds)))
    return "\n".join(lines)


def spread_table(table: Table, backbones: Sequence[str]) -> str:
    """Return how far training seeds differ in each mode, or nothing if no task has several in every mode."""
    lines = []
    for backbone in backbones:
        found = [spread(results) for results in table.pooled(backbone).values()]
        if all(found):
            lines.append(f"| `{backbone}` | {' | '.join(map(str, found))} |")
    header = f"| backbone | {' | '.join(ALL_MODES)} |\n|---|{'---:|' * len(ALL_MODES)}"
    return "\n".join([f"{SPREAD}\n\n{header}", *lines]) if lines else ""


def _row(task: str, backbone: str, cells: Mapping[str, list[Result] | None], by_seed: bool = True) -> str:
    rates = [cell_text(cell, by_seed) for cell in cells.values()]
    tests = [_test(cells["decoupled"] or [], cells[other] or []) for other in ("normal", "random-frozen")]
    return f"| {task} | `{backbone}` | {' | '.join([*rates, *tests])} |"


def cell_text(cell: list[Result] | None, by_seed: bool = True) -> str:
    """Return rate in %, interval, episodes and rate per training seed. None means that no run is planned."""
    if not cell:
        return "" if cell is None else "not run"
    found = rate(cell)
    seeds = (
        ""
        if len(found.by_seed) == 1 or not by_seed
        else "; " + ", ".join(f"{100 * value:.0f}" for _, value in found.by_seed)
    )
    return f"{found} of {found.episodes}{seeds}"


def best_text(cell: list[Result]) -> str:
    """Return the rate of each seed's best checkpoint, as published for MimicGen.

    The choice uses the same rate, so it has no interval.
    """
    rates = [100 * r.best / len(r.episodes) for r in cell]
    return f"{statistics.mean(rates):.0f}; {', '.join(f'{rate:.0f}' for rate in rates)}" if cell else "not run"


def _test(first: list[Result], second: list[Result]) -> str:
    """Return the difference of two cells, with the number of pairs if it is not over all of their episodes."""
    found = paired(first, second)
    if not found:
        return ""
    whole = all(sum(len(r.episodes) for r in cell) == found.pairs for cell in (first, second))
    return f"{found}" if whole else f"{found}, on {found.pairs} pairs"


def cost(found: Sequence[Result]) -> str:
    """Return the text on the cost of the runs and the machine."""
    machines = sorted({r.machine["gpu"] or f"{r.machine['threads']} thread of {r.machine['processor']}" for r in found})
    training, policy, environment, cpu = (
        statistics.median(r.seconds[name] for r in found) for name in ("training", "policy", "environment", "cpu")
    )
    made = {(r.head["name"], r.head["fingerprint"]) for r in found if r.run.uses_pretraining}
    several = len(made) > len({name for name, _ in made})
    return (
        f"{len(found)} run{'s' * (len(found) > 1)} on {', '.join(machines)}. The median run takes {cpu:.0f} CPU "
        f"seconds. Its wall time, with other jobs on the machine, is {training:.0f} s for training and "
        f"{policy + environment:.0f} s for rollouts, "
        f"at {statistics.median(r.env_steps_per_second for r in found):.0f} simulated ticks per second, with "
        f"{statistics.median(r.policy_share for r in found):.0%} of the time in the policy. "
        f"Trained parameters: {_counts(found)}."
        + several
        * " Heads with the same settings of Stage 1 were pretrained on several processors, so their bits differ."
    )


def _counts(found: Sequence[Result]) -> str:
    """Return the counts by backbone and mode, over all tasks, whose observations differ in size."""
    by_system: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in found:
        by_system.setdefault((r.run.backbone, r.run.mode), []).append(r.head)
    return "; ".join(
        f"`{backbone}` {mode} {_range(each['trainable'] for each in made)}, frozen "
        f"{_range(each['frozen'] for each in made)}"
        for (backbone, mode), made in sorted(by_system.items())
    )


def _range(counts: Iterable[int]) -> str:
    """Return the least and the largest of counts, or the only one."""
    found = set(counts)
    return " to ".join(f"{count:,}" for count in sorted({min(found), max(found)}))
