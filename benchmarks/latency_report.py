"""Make the tables of docs/results/speed-cpu.md and speed-gpu.md, and their rooflines, from the results of `latency.py`.

uv run benchmarks/latency_report.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import tyro
from common import DOCS, RESULTS, fill, table
from forms import FORMS, split

from action_heads._util.extras import require
from action_heads._util.machine import processor_text
from action_heads.io.files import read_json

PAGES = {"cpu": "speed-cpu.md", "cuda": "speed-gpu.md"}
MARKERS: dict[str, str] = dict(zip(FORMS, "PXosD^v", strict=True))


def best_table(rows: list[dict]) -> str:
    """Return a table of every system in the form and precision with the lowest median, at batch 1 and most steps."""
    most, least = max(row["steps"] for row in rows), min(row["batch"] for row in rows)
    best: dict[str, dict] = {}
    for row in rows:
        system = split(row["what"])[0]
        if (row["batch"], row["steps"]) == (least, most) and row["ms"] < best.get(system, {}).get("ms", float("inf")):
            best[system] = row
    ours = min(row["ms"] for system, row in best.items() if system.startswith("ours, "))
    header = [f"batch {least}, {most} steps", "best form", "precision", "median, ms", "floor, ms", "times our best"]
    lines = [
        [system, split(r["what"])[1], r["dtype"], short(r["ms"]), short(r["floor_ms"]), short(r["ms"] / ours)]
        for system, r in best.items()
    ]
    return table(header, lines, left=3)


def chunks_table(rows: list[dict]) -> str:
    """Return a table for each batch size with the times of a chunk of ten denoising steps, and its floor."""
    most, parts = max(row["steps"] for row in rows), []
    for batch in sorted({row["batch"] for row in rows}):
        chosen = [row for row in rows if (row["batch"], row["steps"]) == (batch, most)]
        header = [
            f"batch {batch}, {most} steps",
            "precision",
            "median, ms",
            "minimum, ms",
            "floor, ms",
            "minimum / floor",
        ]
        times = [[short(row[key]) for key in ("ms", "least_ms", "floor_ms")] for row in chosen]
        ratios = [f"{row['least_ms'] / row['floor_ms']:.1f}" for row in chosen]
        lines = [[r["what"], r["dtype"], *ms, ratio] for r, ms, ratio in zip(chosen, times, ratios, strict=True)]
        parts.append(table(header, lines, left=2))
    return "\n\n".join(parts)


def short(ms: float) -> str:
    """Return milliseconds with three digits, or as a whole number from 100 on."""
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def steps_table(rows: list[dict]) -> str:
    """Return the minimum times at batch 1 by number of denoising steps."""
    least = min(row["batch"] for row in rows)
    rows = [row for row in rows if row["batch"] == least]
    steps = sorted({row["steps"] for row in rows})
    lines = []
    for name, dtype in dict.fromkeys((row["what"], row["dtype"]) for row in rows):
        found = {r["steps"]: short(r["least_ms"]) for r in rows if (r["what"], r["dtype"]) == (name, dtype)}
        lines.append([name, dtype, *(found.get(k, "") for k in steps)])
    return table(
        ["batch 1, minimum time", "precision", *(f"{k} step{'s' if k > 1 else ''}, ms" for k in steps)], lines, left=2
    )


def commands_of(path: Path) -> list[str]:
    """Return the commands that measured a table: its first one, and those that added rows."""
    record = read_json(path)
    return [*record["results"].get("added_to", []), record["command"]]


def conditions(record: dict) -> str:
    machine, results = record["machine"], record["results"]
    where = (
        machine["gpu"] or f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} of an {processor_text(machine)}"
    )
    rates = ", ".join(f"{rate:g} GFLOP/s in {dtype}" for dtype, rate in results["gflop_per_s"].items())
    note = f" {results['note']}." if results["note"] else ""
    commands = " and then ".join(f"`{one}`" for one in (*results.get("added_to", []), record["command"]))
    return (
        f"{commands}, {record['date']}, {where}, torch {machine['torch']}; highest measured rates: {rates}, "
        f"memory read at {results['gb_per_s']:g} GB/s.{note}"
    )


def looks(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return the colour, as its place among 20, and the marker of each case: a system has one colour in all its forms.

    Raises:
        ValueError: there are more than 20 systems, so two would look the same.
    """
    names = list(names)
    systems = list(dict.fromkeys(split(name)[0] for name in names))
    if len(systems) > 20:
        raise ValueError(f"there are {len(systems)} systems, but a figure has 20 colours. Draw fewer of them.")
    return {name: (systems.index(system), MARKERS[form]) for name in names for system, form in [split(name)]}


def below_floors(rows: list[dict]) -> str:
    """Return a warning that names the cases that took less than their floor, or an empty string."""
    cases = [
        f"{row['what']} ({row['dtype']}, batch {row['batch']}, {row['steps']} step{'s' * (row['steps'] > 1)}, "
        f"{short(row['least_ms'])} of {short(row['floor_ms'])} ms)"
        for row in rows
        if row["least_ms"] < row["floor_ms"]
    ]
    if not cases:
        return ""
    return (
        "**Some cases took less than their floor**, so they computed faster than the highest measured rate. In their "
        f"precision floors may be too high, and ratios to floors are lower bounds: {'; '.join(cases)}."
    )


def measured(record: dict) -> str:
    """Return how a table was measured, which of its floors are wrong, and the times of chunks."""
    rows = record["results"]["rows"]
    return "\n\n".join(filter(None, (conditions(record), below_floors(rows), chunks_table(rows))))


def draw(results: dict, path: Path) -> None:
    """Draw the rate of every case over its operations, below the highest rate of matrix products."""
    plt = require("matplotlib.pyplot", "train")
    colours = plt.get_cmap("tab20").colors
    colours = [*colours[::2], *colours[1::2]]  # the pale ones last
    look = looks(row["what"] for row in results["rows"])
    rates = {dtype: rate for dtype, rate in results["gflop_per_s"].items() if dtype != "tf32"}
    figure, axes = plt.subplots(1, len(rates), figsize=(13, 4.5), sharey=True, squeeze=False, layout="constrained")
    lines = {}
    for ax, (dtype, rate) in zip(axes[0], rates.items(), strict=True):
        rows = [row for row in results["rows"] if row["dtype"] == dtype]
        for name in dict.fromkeys(row["what"] for row in rows):
            points = [(r["mflop"] / 1e3, r["mflop"] / r["least_ms"]) for r in rows if r["what"] == name]
            colour, marker = look[name]
            style = {"color": colours[colour], "marker": marker, "markersize": 5, "linewidth": 0.8}
            (lines[name],) = ax.plot(*zip(*sorted(points), strict=True), **style)
        ax.axhline(rate, color="black", linewidth=1)
        ax.set(xscale="log", yscale="log", title=dtype, xlabel="GFLOP a call")
        ax.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("GFLOP/s, least time; black: highest matrix rate")
    named = [name for name in look if name in lines]  # a form in bf16 alone is not in the first panel
    figure.legend([lines[name] for name in named], named, fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=130)


def report(device: Literal["cpu", "cuda"] = "cpu") -> None:
    """Fill the page of a device and draw its roofline."""
    record = read_json(RESULTS / f"latency_{device}.json")
    rows = record["results"]["rows"]
    text = f"{measured(record)}\n\n{steps_table(rows)}"
    parts = {f"{device} best": best_table(rows), device: text}
    if device == "cpu":  # a processor without AVX-512: `latency.py --to latency_avx2`
        parts["avx2"] = measured(read_json(RESULTS / "latency_avx2.json"))
    fill(DOCS / PAGES[device], parts)
    draw(record["results"], DOCS / f"roofline-{device}.png")
    print(text)


if __name__ == "__main__":
    tyro.cli(report, description=__doc__)
