"""`action-heads report`: the results folder as tables and figures, the paper's beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads.io import files
from action_heads_lab.reproduce import paper, results
from action_heads_lab.reproduce.cells import Table, protocol_of, tables
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.costs import Costs
from action_heads_lab.reproduce.figure import draw
from action_heads_lab.reproduce.grid import ALL_BACKBONES, ALL_MODES, Reproduce, hours, runs
from action_heads_lab.reproduce.page import filled
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.statistics import paired, rate
from action_heads_lab.sim.tasks import TASKS

COMMAND = "uv run examples/robosuite/reproduce.py"
STAGE_1 = {"stage1": None, "signal": None}


@dataclass(frozen=True)
class ReportConfig:
    """Write tables and figures of a results folder, with the paper's figures beside ours.

    Attributes:
        results: the folder that reproduce.py filled, with its sub-folders.
        page: Markdown whose parts between <!-- name --> and <!-- end --> are written anew; made if it is not there.
            Its figure is written beside it.
    """

    results: Path
    page: Path = Path("outputs/reproduce/reproduction.md")


def report(config: ReportConfig) -> None:
    """Write the page and its figure, and print the tables."""
    found = results.load_all(config.results)
    ours = {family: [r for r in found if r.run.family == family] for family in ("robosuite", *paper.TASKS)}
    parts = {"robosuite": robosuite(ours["robosuite"])}
    for family in paper.TASKS:
        parts[family] = beside_paper(family, ours[family])
    figure = config.page.with_name("reproduction.png")
    grid = _table_of(runs(Reproduce(all=True), "robosuite"), ours["robosuite"])
    if grid.cells:
        draw(grid, figure)
    text = config.page.read_text(encoding="utf-8") if config.page.exists() else _blank(parts, figure)
    places = {name: part for name, part in parts.items() if f"<!-- {name} -->" in text}  # a page may have one of them
    files.write_text(config.page, filled(text, places or parts, config.page))
    print(*parts.values(), f"see {config.page}", sep="\n\n")


def robosuite(found: Sequence[Result]) -> str:
    """A table a protocol; that of --all comes first, and shows what is missing, its command and its cost."""
    grid = runs(Reproduce(all=True), "robosuite")
    whole = _table_of(grid, found)
    # Runs that differ in Stage 1 alone are the paper's Tables III and IV, of which benchmarks/systems.py makes one.
    others = [table for table in tables(found) if table.protocol | STAGE_1 != whole.protocol | STAGE_1]
    parts = [f"**{whole.title}.**\n\n{_table(whole, list(TASKS), ALL_BACKBONES)}"]
    done = [r for cell in whole.cells.values() for r in cell]
    parts += [_cost(done)] if done else []
    parts += [_missing(grid, whole, found)]
    for table in others:
        tasks = [task for task in TASKS if any(key.task == task for key in table.cells)]
        backbones = list(dict.fromkeys(key.backbone for key in table.cells))
        parts.append(f"**{table.title}.**\n\n{_table(table, tasks, backbones)}")
    return "\n\n".join(parts)


def _table_of(grid: Sequence[Run], found: Sequence[Result]) -> Table:
    """The table of the grid's protocol, empty if nothing of it is run."""
    empty = Table(protocol_of(grid[0]))
    return next((table for table in tables(found) if table.protocol == empty.protocol), empty)


def _table(table: Table, tasks: Sequence[str], backbones: Sequence[str]) -> str:
    """A row for each task and backbone, and one over all tasks that are run under every mode."""
    modes = (*ALL_MODES, "blind")
    header = ["task", "backbone", *modes, "decoupled − normal", "decoupled − random-frozen"]
    lines = [f"| {' | '.join(header)} |", f"|---|---|{'---:|' * (len(header) - 2)}"]
    for backbone in backbones:
        for task in tasks:
            lines.append(_row(task, backbone, {mode: table.cell(task, backbone, mode) for mode in modes}))
        whole = table.complete(backbone)
        if len(whole) > 1:
            pooled = {mode: [r for task in whole for r in table.cell(task, backbone, mode)] for mode in ALL_MODES}
            lines.append(_row(f"**{len(whole)} tasks**", backbone, pooled | {"blind": None}))
    return "\n".join(lines)


def _row(task: str, backbone: str, cells: Mapping[str, list[Result] | None]) -> str:
    rates = [_cell(cell) for cell in cells.values()]
    tests = [_test(cells["decoupled"] or [], cells[other] or []) for other in ("normal", "random-frozen")]
    return f"| {task} | `{backbone}` | {' | '.join([*rates, *tests])} |"


def _cell(cell: list[Result] | None) -> str:
    """Rate in %, its interval, episodes, and the rate of each training seed; None is not meant to be run."""
    if not cell:
        return "" if cell is None else "not run"
    found = rate(cell)
    seeds = "" if len(found.by_seed) == 1 else "; " + ", ".join(f"{100 * value:.0f}" for _, value in found.by_seed)
    return f"{found} of {found.episodes}{seeds}"


def _best(cell: list[Result]) -> str:
    """As is published of MimicGen: each seed's best checkpoint, chosen by its own rate, so without an interval."""
    rates = [100 * r.best / len(r.episodes) for r in cell]
    return f"{statistics.mean(rates):.0f}; {', '.join(f'{rate:.0f}' for rate in rates)}" if cell else "not run"


def _test(first: list[Result], second: list[Result]) -> str:
    found = paired(first, second)
    return str(found) if found else ""


def _cost(found: Sequence[Result]) -> str:
    """What a run took, and where."""
    machines = sorted({r.machine["gpu"] or f"{r.machine['threads']} thread of {r.machine['processor']}" for r in found})
    training, policy, environment, cpu = (
        statistics.median(r.seconds[name] for r in found) for name in ("training", "policy", "environment", "cpu")
    )
    made = {(r.head["name"], r.head["fingerprint"]) for r in found if r.run.uses_pretraining}
    several = len(made) > len({name for name, _ in made})
    return (
        f"{len(found)} run{'s' * (len(found) > 1)} on {', '.join(machines)}; median of one: {cpu:.0f} CPU seconds; "
        f"wall time, beside other jobs: training {training:.0f} s, rollouts {policy + environment:.0f} s at "
        f"{statistics.median(r.env_steps_per_second for r in found):.0f} environment steps per second, "
        f"{statistics.median(r.policy_share for r in found):.0%} of it in the policy. "
        f"Trained parameters: {_counts(found)}."
        + several
        * " Heads of one Stage 1 were pretrained on several processors, whose bits differ."
    )


def _counts(found: Sequence[Result]) -> str:
    """By backbone and mode; what a task's observation adds is small, so that of one task stands for all."""
    by_system = {(r.run.backbone, r.run.mode): r.head for r in found}
    return "; ".join(
        f"`{backbone}` {mode} {head['trainable']:,}, frozen {head['frozen']:,}"
        for (backbone, mode), head in sorted(by_system.items())
    )


def _missing(grid: Sequence[Run], table: Table, found: Sequence[Result]) -> str:
    """The rows of the grid that lack runs, each with its command and its cost."""
    have = {(r.run.task, r.run.backbone, r.run.mode, r.run.seed) for cell in table.cells.values() for r in cell}
    left = [run for run in grid if (run.task, run.backbone, run.mode, run.seed) not in have]
    if not left:
        return "Every row is filled."
    costs = Costs(found)
    lines: dict[str, float] = {}
    for run in left:
        missing = {r.mode for r in left if (r.task, r.backbone) == (run.task, run.backbone)}
        modes = [mode for mode in (*ALL_MODES, "blind") if mode in missing]
        command = f"--task {run.task} --backbone {run.backbone} --mode {','.join(modes)}"
        lines[command] = lines.get(command, 0) + costs.seconds(run)
    text = "\n".join(f"{COMMAND} {options}  # {seconds / 60:.0f} CPU min" for options, seconds in lines.items())
    return (
        f"{len(left)} of {len(grid)} runs are left, about {hours(sum(lines.values()))} by the rates of finished runs, "
        "without recordings and Stage 1. "
        f"`{COMMAND} --all` runs them; row by row:\n\n```bash\n{text}\n```"
    )


def beside_paper(family: str, found: Sequence[Result]) -> str:
    """Table II of the paper, a row of ours under each of theirs; then ours by themselves, under every mode."""
    tasks, rows = list(paper.TASKS[family]), paper.PRINTED[family]
    lines = [
        f"| system | mode | whose | {' | '.join(f'`{task}`' for task in tasks)} | average |",
        f"|---|---|---|{'---:|' * (len(tasks) + 1)}",
    ]
    ours = tables(found)
    for (backbone, mode), values in rows.items():
        name = f"{paper.NAMES[backbone]} (`{backbone}`) | {mode}"
        lines.append(f"| {name} | paper | {' | '.join(values.split())} |")
        for table in ours:
            cells = [table.cell(task, backbone, mode) for task in tasks]
            if any(cells):
                lines.append(f"| {name} | **ours**, {table.title} | {' | '.join(map(_cell, cells))} | |")
            if any(cells) and (tried := table.protocol["checkpoints"]) > 1:
                lines.append(f"| {name} | **ours**, best of {tried} checkpoints | {' | '.join(map(_best, cells))} | |")
    parts = ["\n".join(lines)]
    for table in ours:
        run = {name: list(dict.fromkeys(getattr(key, name) for key in table.cells)) for name in ("task", "backbone")}
        parts.append(f"**{table.title}.**\n\n{_table(table, run['task'], run['backbone'])}")
    return "\n\n".join([*parts, _cost(found) if found else "Ours: not run."])


def _blank(parts: Mapping[str, str], figure: Path) -> str:
    sections = [f"## {name}\n\n<!-- {name} -->\n<!-- end -->" for name in parts]
    return "# Results\n\n" + f"![Success by mode]({figure.name})\n\n" + "\n\n".join(sections) + "\n"
