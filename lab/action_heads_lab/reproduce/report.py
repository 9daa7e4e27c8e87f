"""Run `action-heads report`: write tables and figures of a results folder, with those of the paper."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads.io import files
from action_heads_lab.reproduce import paper, results
from action_heads_lab.reproduce.cells import Table, protocol_of, tables
from action_heads_lab.reproduce.config import ALL_MODES, Run
from action_heads_lab.reproduce.costs import Costs
from action_heads_lab.reproduce.figure import draw, draw_beside_paper
from action_heads_lab.reproduce.grid import ALL_BACKBONES, Reproduce, hours, runs
from action_heads_lab.reproduce.page import filled
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.statistics import paired, rate
from action_heads_lab.sim.tasks import TASKS

COMMAND = "uv run examples/robosuite/reproduce.py"
INTERVALS = (
    "Intervals of rates are Wilson's 95 % intervals over episodes, without the spread of training seeds. ± and p of "
    "the differences are over episodes (McNemar's exact test) or, where their error is larger, over training seeds (a "
    "t test on the differences of each task's runs). With one training seed they do not cover what another seed would "
    "change."
)
STAGE_1 = {"stage1": None, "signal": None}
FIGURES = {"robosuite": "reproduction.png", "mimicgen": "mimicgen.png", "libero": "libero.png"}  # beside the page


@dataclass(frozen=True)
class ReportConfig:
    """Write tables and figures of a results folder, beside the numbers of the paper.

    Attributes:
        results: folder that reproduce.py wrote, including its subfolders.
        page: Markdown page whose parts between <!-- name --> and <!-- end --> are replaced; created if it does not
            exist. The figures of its parts are written next to it.
    """

    results: Path
    page: Path = Path("outputs/reproduce/reproduction.md")


def report(config: ReportConfig) -> None:
    """Write the page and its figure, and print the tables."""
    found = results.load_all(config.results)
    ours = {family: [r for r in found if r.run.family == family] for family in FIGURES}
    parts = {"robosuite": robosuite(ours["robosuite"])}
    for family in paper.TASKS:
        parts[family] = beside_paper(family, ours[family])
    text = config.page.read_text(encoding="utf-8") if config.page.exists() else _blank(ours)
    places = {name: part for name, part in parts.items() if f"<!-- {name} -->" in text}  # a page may have one of them
    files.write_text(config.page, filled(text, places or parts, config.page))
    for family in places:
        _figure(family, ours[family], config.page.with_name(FIGURES[family]))
    print(*parts.values(), f"see {config.page}", sep="\n\n")


def _figure(family: str, found: Sequence[Result], path: Path) -> None:
    """Draw the figure of a family, if it has results of the protocol that the figure shows."""
    if family == "robosuite":
        grid = _table_of(runs(Reproduce(all=True), "robosuite"), found)
        if grid.cells:
            draw(grid, path)
    elif found:
        draw_beside_paper(family, tables(found), path)


def robosuite(found: Sequence[Result]) -> str:
    """Return one table per protocol. That of --all comes first, with the missing runs, their command and cost."""
    grid = runs(Reproduce(all=True), "robosuite")
    whole = _table_of(grid, found)
    # Runs that differ only in Stage 1 are those of Tables III and IV, which benchmarks/systems.py writes.
    others = [table for table in tables(found) if table.protocol | STAGE_1 != whole.protocol | STAGE_1]
    parts = [f"**{whole.title}.**\n\n{_table(whole, list(TASKS), ALL_BACKBONES)}"]
    parts += [INTERVALS, _cost(whole.results)] if whole.cells else []
    parts += [_missing(grid, whole, found)]
    return "\n\n".join([*parts, *(_titled(table, table.title, TASKS) for table in others)])


def _titled(table: Table, title: str, tasks: Iterable[str]) -> str:
    """Return a table under its title, with those of the tasks that were run, and below it what they cost."""
    done = [task for task in tasks if any(key.task == task for key in table.cells)]
    backbones = list(dict.fromkeys(key.backbone for key in table.cells))
    return "\n\n".join([f"**{title}.**", _table(table, done, backbones), _cost(table.results)])


def _table_of(grid: Sequence[Run], found: Sequence[Result]) -> Table:
    """Return the table of the grid's protocol, which is empty if none of its runs was done."""
    empty = Table(protocol_of(grid[0]))
    return next((table for table in tables(found) if table.protocol == empty.protocol), empty)


def _table(table: Table, tasks: Sequence[str], backbones: Sequence[str]) -> str:
    """Return a row for each task and backbone, and one over all tasks that were run in every mode."""
    modes = (*ALL_MODES, "blind")
    header = ["task", "backbone", *modes, "decoupled − normal", "decoupled − random-frozen"]
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
            label = f"**{len(whole)} tasks**"
            if left_out:
                label += f", without {left_out} run{'s' * (left_out > 1)} that a mode lacks"
            lines.append(_row(label, backbone, pooled | {"blind": None}, by_seed=len(pairs) == len(whole) * len(seeds)))
    return "\n".join(lines)


def _row(task: str, backbone: str, cells: Mapping[str, list[Result] | None], by_seed: bool = True) -> str:
    rates = [_cell(cell, by_seed) for cell in cells.values()]
    tests = [_test(cells["decoupled"] or [], cells[other] or []) for other in ("normal", "random-frozen")]
    return f"| {task} | `{backbone}` | {' | '.join([*rates, *tests])} |"


def _cell(cell: list[Result] | None, by_seed: bool = True) -> str:
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


def _best(cell: list[Result]) -> str:
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


def _cost(found: Sequence[Result]) -> str:
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
    """Return the counts by backbone and mode, from one task. The sizes of the observations hardly change them."""
    by_system = {(r.run.backbone, r.run.mode): r.head for r in found}
    return "; ".join(
        f"`{backbone}` {mode} {head['trainable']:,}, frozen {head['frozen']:,}"
        for (backbone, mode), head in sorted(by_system.items())
    )


def _missing(grid: Sequence[Run], table: Table, found: Sequence[Result]) -> str:
    """Return the text on the missing runs of the grid, with a command and a cost per row."""
    have = {(r.run.task, r.run.backbone, r.run.mode, r.run.seed) for cell in table.cells.values() for r in cell}
    left = [run for run in grid if (run.task, run.backbone, run.mode, run.seed) not in have]
    if not left:
        return "All runs are done."
    costs = Costs(found)
    lines: dict[str, float] = {}
    for run in left:
        missing = {r.mode for r in left if (r.task, r.backbone) == (run.task, run.backbone)}
        modes = [mode for mode in (*ALL_MODES, "blind") if mode in missing]
        command = f"--task {run.task} --backbone {run.backbone} --mode {','.join(modes)}"
        lines[command] = lines.get(command, 0) + costs.seconds(run)
    text = "\n".join(f"{COMMAND} {options}  # {seconds / 60:.0f} CPU min" for options, seconds in lines.items())
    return (
        f"{len(left)} of {len(grid)} runs remain, about {hours(sum(lines.values()))} at the rates of finished runs, "
        "without recordings and Stage 1. "
        f"`{COMMAND} --all` does them all. The commands of each row:\n\n```bash\n{text}\n```"
    )


def beside_paper(family: str, found: Sequence[Result]) -> str:
    """Return Table II of the paper with our rows under theirs, and then each table of ours in every mode.

    If there are several, our rows have their number.
    """
    tasks, rows = list(paper.TASKS[family]), paper.PRINTED[family]
    lines = [
        f"| system | mode | results | {' | '.join(f'`{task}`' for task in tasks)} | average |",
        f"|---|---|---|{'---:|' * (len(tasks) + 1)}",
    ]
    several = len(tables(found)) > 1
    ours = {f"ours ({i})" if several else "ours": table for i, table in enumerate(tables(found), 1)}
    for (backbone, mode), values in rows.items():
        name = f"{paper.NAMES[backbone]} (`{backbone}`) | {mode}"
        lines.append(f"| {name} | paper | {' | '.join(values.split())} |")
        for label, table in ours.items():
            cells = [table.cell(task, backbone, mode) for task in tasks]
            if any(cells):
                lines.append(f"| {name} | **{label}** | {' | '.join(map(_cell, cells))} | |")
            if any(cells) and (tried := table.protocol["checkpoints"]) > 1:
                best = " | ".join(map(_best, cells))
                lines.append(f"| {name} | **{label}**, best of {tried} checkpoints | {best} | |")
    own = [_titled(table, f"{label.capitalize()}: {table.title}", tasks) for label, table in ours.items()]
    return "\n\n".join(["\n".join(lines), *own, INTERVALS if own else "We have no runs of this family."])


def _blank(ours: Mapping[str, Sequence[Result]]) -> str:
    """Return a page with a part for each family, and the figures of those that have results."""
    figures = {family: f"![Success by mode]({FIGURES[family]})\n\n" if found else "" for family, found in ours.items()}
    sections = [f"## {family}\n\n{figures[family]}<!-- {family} -->\n<!-- end -->" for family in ours]
    return "# Results\n\n" + "\n\n".join(sections) + "\n"
