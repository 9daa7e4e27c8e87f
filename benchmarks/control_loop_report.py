"""Write docs/results/control-loop.md from the results of `control_loop.py`."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from common import DOCS, ONLINE, fill, table
from comparisons import listed
from latency_report import short

from action_heads._util.machine import processor_text

PAGE = DOCS / "control-loop.md"
CASES = {"eager": "eager", "native": "`native`", "background": "`native` in a second thread", "server": "`serve`"}
SCHEDULING = {"ordinary": "ordinary", "real-time": "real-time priority", "own-core": "a core of its own"}
SETTINGS = ("head", "steps", "execute", "threads")
UNMEASURED = "Not measured yet."


def write_page(record: dict[str, Any] | None) -> str:
    """Fill the page, and return its answer and tables."""
    rows = record["results"] if record else []
    parts = {"answer": answer(rows), "loop": tables(rows), "machine": measured_on(record) if record else UNMEASURED}
    fill(PAGE, parts)
    return "\n\n".join(parts.values())


def groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of each head and way to act, in the order of the tables."""

    def place(row: dict[str, Any]) -> tuple:
        return row["rate"], list(SCHEDULING).index(row["scheduling"]), list(CASES).index(row["case"])

    def settings(row: dict[str, Any]) -> tuple:
        return tuple(row[name] for name in SETTINGS)

    ordered = sorted(rows, key=lambda row: (-row["execute"], -row["steps"], row["threads"], row["head"], place(row)))
    return [list(group) for _, group in groupby(ordered, settings)]


def answer(rows: list[dict[str, Any]]) -> str:
    """Return the answer of the page: the share of missed deadlines of each case at all rates, of the first group."""
    if not rows:
        return f"**Answer.** {UNMEASURED}"
    group = groups(rows)[0]
    rates = sorted({row["rate"] for row in group})
    share = {(row["scheduling"], row["case"], row["rate"]): percent(row) for row in group}
    found = []
    for scheduling, words in SCHEDULING.items():
        cases = {case: [share.get((scheduling, case, rate), "") for rate in rates] for case in CASES}
        shown = [f"{CASES[case]} {listed(values)} %" for case, values in cases.items() if all(values)]
        words = f"{words} scheduling" if scheduling == "ordinary" else words
        found += [f"- With {words}: {'; '.join(shown)}."] if shown else []
    return f"**Answer.** Missed deadlines at {listed(rates)} Hz:\n\n" + "\n".join(found)


def tables(rows: list[dict[str, Any]]) -> str:
    """Return a table for each head and way to act."""
    if not rows:
        return UNMEASURED
    header = ["Hz", "scheduling", "case", "ticks", "missed", "%"]
    header += [
        "p50, ms",
        "p99, ms",
        "p99.9, ms",
        "max, ms",
        "other ticks: p99, ms",
        "jitter: p99, ms",
        "max, ms",
        "camera, Hz",
    ]
    parts = []
    for group in groups(rows):
        lines = [
            [
                *(str(row["rate"]), SCHEDULING[row["scheduling"]], CASES[row["case"]]),
                *(f"{row['ticks']:,}", f"{row['missed']:,}", percent(row)),
                *(short(row["chunk_ms"][name]) for name in ("p50", "p99", "p99_9", "max")),
                short(row["other_ms"]["p99"]) if "other_ms" in row else "",
                *(short(row["jitter_ms"][name]) for name in ("p99", "max")),
                f"{row['camera_fps']:.1f}",
            ]
            for row in group
        ]
        words = what(group[0])
        parts.append(f"{words[0].upper()}{words[1:]}:\n\n{table(header, lines, left=3)}")
    return "\n\n".join(parts)


def what(row: dict[str, Any]) -> str:
    """Return the head and the way to act of a row in words."""
    every = "tick" if row["execute"] == 1 else f"{row['execute']} ticks"
    threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return f"a chunk of {row['steps']} denoising steps of `{row['head']}` every {every}, on {threads}"


def percent(row: dict[str, Any]) -> str:
    """Return the share of deadlines that were missed, in percent."""
    share = 100 * row["missed"] / row["ticks"]
    return f"{share:.0f}" if share >= 10 else f"{share:.2g}"


def measured_on(record: dict[str, Any]) -> str:
    """Return where and when the rows were measured, and where they are."""
    machine = record["machine"]
    seconds = sorted({row["seconds"] for row in record["results"]})
    return (
        f"{listed([f'{s:g}' for s in seconds])} seconds a cell, {record['date']}, {machine['cores']} cores of "
        f"{processor_text(machine)}, Python {machine['python']}, torch {machine['torch']}. Results: "
        f"[`control_loop.json`]({ONLINE}/control_loop.json)."
    )
