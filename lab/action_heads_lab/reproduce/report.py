"""Run `action-heads report`: write tables and figures of a results folder, with those of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads.io import files
from action_heads_lab.reproduce import missing, paper, results
from action_heads_lab.reproduce.beside_paper import beside_paper
from action_heads_lab.reproduce.cells import Table, protocol_of, tables
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.figure import draw, draw_beside_paper
from action_heads_lab.reproduce.grid import ALL_BACKBONES, Reproduce, runs
from action_heads_lab.reproduce.markdown import cost, intervals, modes_table, spread_table, titled
from action_heads_lab.reproduce.page import filled
from action_heads_lab.reproduce.results import Result
from action_heads_lab.sim.tasks import TASKS

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
    parts = [f"**{whole.title}.**\n\n{modes_table(whole, list(TASKS), ALL_BACKBONES)}"]
    parts += (
        [intervals(whole.family.unit), spread_table(whole, ALL_BACKBONES), cost(whole.results)] if whole.cells else []
    )
    parts += [missing.of_all(found, whole.results)]
    return "\n\n".join([*filter(None, parts), *(titled(table, table.title, TASKS) for table in others)])


def _table_of(grid: Sequence[Run], found: Sequence[Result]) -> Table:
    """Return the table of the grid's protocol, which is empty if none of its runs was done."""
    empty = Table(protocol_of(grid[0]))
    return next((table for table in tables(found) if table.protocol == empty.protocol), empty)


def _blank(ours: Mapping[str, Sequence[Result]]) -> str:
    """Return a page with a part for each family, and the figures of those that have results."""
    figures = {family: f"![Success by mode]({FIGURES[family]})\n\n" if found else "" for family, found in ours.items()}
    sections = [f"## {family}\n\n{figures[family]}<!-- {family} -->\n<!-- end -->" for family in ours]
    return "# Results\n\n" + "\n\n".join(sections) + "\n"
