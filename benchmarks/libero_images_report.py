"""Write docs/results/libero-images.md and its figure from the results of `libero_images.py`.

The page has every finished run, whatever its head, and says which planned ones are open and what they cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from action_heads_lab.reproduce import paper
from action_heads_lab.reproduce.figure import paper_bar
from action_heads_lab.reproduce.statistics import Paired, counted
from action_heads_lab.sim.interval import error_bars, interval_text, wilson
from action_heads_lab.sim.report import COLOURS
from common import DOCS, fill, made_text, read_results, table
from comparisons import OTHERS, Comparison, by_chance, listed, told_apart
from libero_cells import EPISODES, MODES, PLANNED, SMALL, SUITES, TITLES, Cell, cell_of, named, systems
from matplotlib.patches import Patch

Row = dict[str, Any]
Rows = Mapping[Cell, Row]
NAME = "libero_images"
PAGE = DOCS / "libero-images.md"
AIM = 0.02  # how far decoupled may be below normal training
MORE = (20, 50)  # rollouts of each task that were not run; the paper has 50
TOGETHER = "the four suites together"
SYSTEMS = {"normal": "normal training", "random-frozen": "a random frozen head"}  # in the conclusion, by mode
PAPER = paper.TABLE_2["libero"]["mlp", "decoupled"][-1][0] / 100  # its average over the suites


def page() -> None:
    """Fill the page and draw its figure."""
    rows = whole(read_results(NAME, []))
    fill(PAGE, parts(rows))
    draw(rows)


def parts(rows: Rows) -> dict[str, str]:
    """Return the parts of the page."""
    return {
        "conclusion": conclusion(rows),
        "answer": answer(rows),
        "pairs": pairs_table(rows),
        "ours": ours(rows),
        "open": open_cells(rows),
        "paper": papers(),
        "made": made_text(NAME, list(rows.values())),
    }


def whole(rows: Iterable[Row]) -> dict[Cell, Row]:
    """Return the rows that have all tasks of their suite by cell, planned ones first. Unfinished rows are left out."""
    found = {cell_of(row): row for row in rows if len(row["rolled"]) == Cell.tasks}
    extra = sorted(found.keys() - set(PLANNED), key=lambda cell: (cell.head, SUITES.index(cell.suite), named(cell)))
    return {cell: found[cell] for cell in (*PLANNED, *extra) if cell in found}


def outcome(row: Row) -> tuple[int, int]:
    """Return how many episodes of a row succeeded, and how many there were."""
    episodes = [success for each in row["rolled"].values() for success in each]
    return sum(episodes), len(episodes)


def level(groups: Iterable[Sequence[Row]]) -> list[list[Row]]:
    """Return groups of rows with the first rollouts of each task only, as many as every task of every row has.

    A row that was continued for some tasks, or one of several suites, would count more than others in a pooled rate.
    """
    groups = list(groups)
    number = min((fewest(row) for rows in groups for row in rows), default=0)
    return [
        [row | {"rolled": {task: each[:number] for task, each in row["rolled"].items()}} for row in rows]
        for rows in groups
    ]


def fewest(row: Row) -> int:
    """Return how many rollouts every task of a row has."""
    return min(map(len, row["rolled"].values()))


def pairs(first: Row, second: Row) -> list[tuple[bool, bool]]:
    """Return the outcomes of two rows in their common episodes, which start from the init states in their order."""
    one, other = first["rolled"], second["rolled"]
    return [pair for task in one if task in other for pair in zip(one[task], other[task], strict=False)]


def compared(rows: Rows, first: Cell, second: Cell) -> dict[str, tuple[Row, Row]]:
    """Return the rows of two systems by suite, for the suites that have common episodes."""
    both = {suite: (rows.get(replace(first, suite=suite)), rows.get(replace(second, suite=suite))) for suite in SUITES}
    return {suite: (a, b) for suite, (a, b) in both.items() if a and b and pairs(a, b)}


def tested(both: Iterable[tuple[Row, Row]]) -> Paired:
    """Return the paired comparison over suites, on as many starts of each task."""
    return Paired(tuple((counted(pairs(*each)),) for each in level(both)))


def comparisons(rows: Rows) -> list[tuple[Cell, Cell]]:
    """Return each system in the mode decoupled with those that it is compared with, if both have a common suite."""
    ours = dict.fromkeys(replace(cell, suite="") for cell in rows if cell.mode == "decoupled")
    found = [(one, replace(one, mode=mode)) for one in ours for mode in MODES[1:]]
    found += [(one, replace(one, **SMALL)) for one in ours if not one.is_small]
    return [each for each in found if compared(rows, *each)]


def conclusion(rows: Rows) -> str:
    """Return the answer in two sentences: success over the four suites, and where images help."""
    decoupled, *others, blind = systems()[: len(MODES)]
    tests = [test for test in by_suite(rows, decoupled, blind) if test.where != TOGETHER]
    parts = {
        "images helped on": [test.where for test in tests if test.is_apart and test.gain > 0],
        "images hurt on": [test.where for test in tests if test.is_apart and test.gain < 0],
        "no benefit of images was found on": [test.where for test in tests if not test.is_apart],
    }
    images = "; ".join(f"{what} {listed(where)}" for what, where in parts.items() if where)
    return over_suites(rows, decoupled, others) + (f" {images[0].upper()}{images[1:]}." if images else "")


def on_all_suites(rows: Rows, systems: Iterable[Cell]) -> dict[str, list[Row]]:
    """Return the rows of the systems that have all suites by mode, on as many rollouts of each task."""
    cells = {system.mode: [replace(system, suite=suite) for suite in SUITES] for system in systems}
    found = {mode: [rows[cell] for cell in each] for mode, each in cells.items() if rows.keys() >= set(each)}
    return dict(zip(found, level(found.values()), strict=True))


def over_suites(rows: Rows, decoupled: Cell, others: Iterable[Cell]) -> str:
    """Return a sentence on the success of a frozen pretrained head beside others that have all suites, and the paper's.

    All rates are of as many rollouts of each task.
    """
    of_mode = on_all_suites(rows, (decoupled, *others))
    if decoupled.mode not in of_mode:
        return "The frozen pretrained head has not been run on all four suites."
    ours = of_mode.pop(decoupled.mode)
    beside = "".join(
        f", {SYSTEMS[mode]} in {pooled(each)[0]} (p = {tested(zip(ours, each, strict=True)).p:.2g})"
        for mode, each in of_mode.items()
    )
    won, of = pooled(ours)
    return (
        f"From {decoupled.demos} demonstrations a task, a frozen pretrained head succeeds in {won} of {of} rollouts "
        f"over the four suites{beside}; the paper's frozen head has {100 * PAPER:.1f} %."
    )


def answer(rows: Rows) -> str:
    """Return the details of the answer: whether the aim is met, and what is told apart on the same starts."""
    decoupled, normal, *others = systems()
    small, small_random = others[-2:]
    found = [
        told_apart(name, tests)
        for name, first, seconds in (
            ("decoupled", decoupled, [normal, *others[:-2]]),
            ("With the small adapter, decoupled", small, [small_random]),
        )
        if (tests := [test for second in seconds for test in by_suite(rows, first, second)])
    ]
    joined = "\n- ".join(found)
    return f"- {aim(rows, decoupled, normal)}\n- On the same starts, {joined}"


def aim(rows: Rows, decoupled: Cell, normal: Cell) -> str:
    """Return whether decoupled is near normal training and above the paper's average, over all suites."""
    what = (
        f"The aim, decoupled at most {100 * AIM:.0f} points below normal training and above the paper's "
        f"{100 * PAPER:.1f} % over the four suites,"
    )
    both = compared(rows, decoupled, normal)
    if len(both) < len(SUITES):
        return f"{what} is open: {len(both)} of {len(SUITES)} suites have both runs."
    (won, of), (others, tried) = rates(both)
    test = tested(both.values())
    is_met = test.difference >= -AIM and won / of > PAPER
    return (
        f"{what} is {'met' if is_met else 'missed'}: decoupled has {won} of {of}, normal training {others} of {tried}, "
        f"a difference in points of {test}."
    )


def by_suite(rows: Rows, first: Cell, second: Cell) -> list[Comparison]:
    """Return the tests of two systems in each suite, and over all of them."""
    found = {suite: tested([both]) for suite, both in compared(rows, first, second).items()}
    named = {TITLES[suite]: test for suite, test in found.items()}
    if len(found) == len(SUITES):
        named[TOGETHER] = tested(compared(rows, first, second).values())
    return [
        Comparison(OTHERS[second.mode], where, f"p = {test.p:.2g}", test.difference, test.p)
        for where, test in named.items()
    ]


def rates(both: Mapping[str, tuple[Row, Row]]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the successes and the episodes of two systems over suites, on as many starts of each task."""
    first, second = (pooled(rows) for rows in zip(*level(both.values()), strict=True))
    return first, second


def pooled(rows: Iterable[Row]) -> tuple[int, int]:
    """Return the successes and the episodes of several rows."""
    won, of = zip(*map(outcome, rows), strict=True)
    return sum(won), sum(of)


def pairs_table(rows: Rows) -> str:
    """Return the differences of systems on the same starts, by suite and over the suites that both have."""
    lines, tests = [], 0
    for first, second in comparisons(rows):
        both = compared(rows, first, second)
        cells = [f"{tested([both[suite]])}" if suite in both else "" for suite in SUITES]
        (won, of), (others, tried) = rates(both)
        successes = f"{won} of {of} and {others} of {tried}"
        over = f"{tested(both.values())}" if len(both) > 1 else ""
        other_name = named(second).removeprefix("decoupled, " * (second.mode == "blind"))
        name = f"{named(first)} − {other_name}"
        lines.append([f"`{first.head}`", name, *cells, str(len(both)), successes, over])
        tests += len(both) + bool(over)
    head = ["head", "difference in points", *TITLES.values(), "suites compared", "successes", "difference"]
    return f"{table(head, lines, 2)}\n\n{by_chance(tests)}"


def ours(rows: Rows) -> str:
    """Return the table of all runs."""
    lines = []
    for cell, row in rows.items():
        [[same]] = level([[row]])
        won, tried = outcome(same)
        tasks = ", ".join(f"{sum(each)}/{len(each)}" for each in same["rolled"].values())
        numbers = [f"{row['trained']:,}", f"{won} of {tried}", interval_text(*wilson(won, tried)), tasks]
        costs = [f"{row['training_cpu_seconds']} s", f"{row['rollout_seconds']} s"]
        lines.append([cell.suite, f"`{cell.head}`", named(cell), *numbers, *costs])
    head = ["suite", "head", "run", "trained", "success", "95 % interval", "by task", "CPU time of training"]
    return table([*head, "rollouts"], lines, left=3)


def papers() -> str:
    """Return the paper's rows."""
    theirs = [
        [f"DP-MLP, {mode}", *values.split()]
        for (backbone, mode), values in paper.PRINTED["libero"].items()
        if backbone == "mlp"
    ]
    return table(["paper", *paper.TASKS["libero"], "average"], theirs)


def open_cells(rows: Rows) -> str:
    """Return what was not run and what it costs, by the medians of the runs that are finished."""
    if not rows:
        return "No run is finished, so there are no costs."
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in PLANNED:
        if cell not in rows:
            groups.setdefault((cell.suite, cell.head), []).append(cell)
    lines = []
    for (suite, head), cells in groups.items():
        rollouts = Cell.tasks * EPISODES * episode_seconds(rows, suite) * len(cells)
        names = "; ".join(map(named, cells))
        lines.append(
            [
                TITLES[suite],
                f"`{head}`",
                names,
                minutes(sum(training_seconds(rows, c) for c in cells)),
                minutes(rollouts),
            ]
        )
    for episodes in MORE:
        left = [
            sum(max(0, episodes - len(each)) for each in row["rolled"].values()) * episode_seconds(rows, cell.suite)
            for cell, row in rows.items()
        ]
        what = f"the {len(rows)} finished runs with {episodes} rollouts of each task"
        lines.append(["all", "all", what, "", minutes(sum(left))])
    return table(["suite", "head", "not run", "CPU time of training", "rollouts"], lines, 3)


def training_seconds(rows: Rows, cell: Cell) -> float:
    """Return the median CPU time of training with as many training steps of an adapter of the same kind."""
    alike = [row for done, row in rows.items() if (done.through, done.steps) == (cell.through, cell.steps)]
    return median(row["training_cpu_seconds"] for row in alike or rows.values())


def episode_seconds(rows: Rows, suite: str) -> float:
    """Return the median time of an episode in a suite, or in all if the suite has no rows."""
    alike = [row for done, row in rows.items() if done.suite == suite] or list(rows.values())
    return median(row["rollout_seconds"] / outcome(row)[1] for row in alike)


def minutes(seconds: float) -> str:
    """Return a time in minutes."""
    return f"{seconds / 60:,.0f} min"


def differs(rows: Iterable[Row]) -> str:
    """Return what differs between the bars of the paper and ours, of these rows."""
    numbers = sorted(set(map(fewest, rows)) or {EPISODES})
    return (
        "Hatched: the paper's DP-MLP. 50 demonstrations of each task by people, ResNet-50 trained along, 50 rollouts "
        "of each task; mean and deviation of three seeds.\n"
        f"Plain: ours, a mixer. {Cell.demos} demonstrations of each task by scripted experts, MobileNetV2 frozen, "
        f"{' or '.join(map(str, numbers))} rollouts of each task; 95 % intervals."
    )


def draw(rows: Rows) -> None:
    """Draw the systems of the usual head in each suite and over all, beside the paper's two, which are hatched."""
    width, shown = 0.1, systems()
    figure, axis = plt.subplots(figsize=(13, 4.6), layout="constrained")
    for i, suite in enumerate((*SUITES, None)):
        column = -1 if suite is None else list(paper.TASKS["libero"]).index(suite)
        at = i - 3.5 * width
        for mode in ("decoupled", "normal"):
            paper_bar(axis, at, mode, paper.TABLE_2["libero"]["mlp", mode][column], width)
            at += width
        for system in shown:
            cells = [replace(system, suite=name) for name in (SUITES if suite is None else [suite])]
            if all(cell in rows for cell in cells):
                rate, error = error_bars(*pooled(*level([[rows[cell] for cell in cells]])))
                look: dict[str, Any] = {"color": COLOURS[system.mode], "alpha": 0.45 if system.is_small else 1.0}
                axis.bar(at, rate, width, yerr=error, capsize=2, error_kw={"lw": 0.8}, **look)
            elif suite:
                axis.text(at, 0.01, "not run", rotation=90, ha="center", fontsize=7, color="#6c757d")
            at += width
    axis.set_xticks(range(len(SUITES) + 1), [*TITLES.values(), "all four suites"])
    axis.axvline(len(SUITES) - 0.5, color="#dee2e6", lw=1)
    axis.set(xlim=(-0.5, len(SUITES) + 0.5), ylim=(0, 1.03), ylabel="success rate")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(
        differs([row for cell, row in rows.items() if replace(cell, suite="") in shown]), fontsize=9, loc="left"
    )
    handles = [Patch(facecolor=COLOURS[mode], hatch="//", edgecolor="white") for mode in ("decoupled", "normal")]
    handles += [Patch(color=COLOURS[s.mode], alpha=0.45 if s.is_small else 1.0) for s in shown]
    names = ["the paper's decoupled", "the paper's normal", *map(named, shown)]
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(DOCS / "libero-images.png", dpi=120)
    plt.close(figure)
