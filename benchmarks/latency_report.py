"""The tables of docs/results/speed.md, the one of the README and the roofline, from the JSON that `latency.py` wrote.

uv run benchmarks/latency_report.py
"""

from __future__ import annotations

from pathlib import Path

from action_heads_lab.reproduce.page import fill
from common import RESULTS

from action_heads._util.extras import require
from action_heads.io.files import read_json

DOCS = Path(__file__).parent.parent / "docs" / "results"


def chunks_table(rows: list[dict]) -> str:
    """A chunk of ten steps, every system at every batch size: the median, and how often the floor it is."""
    batches = sorted({row["batch"] for row in rows})
    lines = [
        "| | precision | " + " | ".join(f"batch {b}: ms | least | floor | ratio" for b in batches) + " |",
        "|---|---|" + "---:|---:|---:|---:|" * len(batches),
    ]
    most = max(row["steps"] for row in rows)
    for name, dtype in dict.fromkeys((row["what"], row["dtype"]) for row in rows):
        found = {r["batch"]: r for r in rows if (r["what"], r["dtype"], r["steps"]) == (name, dtype, most)}
        cells = [cell(found.get(b)) for b in batches]
        lines.append(f"| {name} | {dtype} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: dict | None) -> str:
    if row is None:
        return " | | | "
    ratio = row["least_ms"] / row["floor_ms"]
    return f"{short(row['ms'])} | {short(row['least_ms'])} | {short(row['floor_ms'])} | {ratio:.1f}"


def short(ms: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def readme_table(rows: list[dict]) -> str:
    """A chunk of ten steps at batch 1, in both precisions, over its floor in fp32; without what is ours but slower."""
    lines = ["| | fp32 | floor | bf16 |", "|---|---:|---:|---:|"]
    chosen = [row for row in rows if (row["batch"], row["steps"]) == (1, max(r["steps"] for r in rows))]
    for name in dict.fromkeys(row["what"] for row in chosen):
        if name.startswith("ours, FiLM") or "packed" in name or "by diffusers" in name:
            continue
        of = {row["dtype"]: row for row in chosen if row["what"] == name}
        ms = {dtype: f"{short(of[dtype]['ms'])} ms" if dtype in of else "" for dtype in ("fp32", "bf16")}
        floor = f"{short(of['fp32']['floor_ms'])} ms" if "fp32" in of else ""
        lines.append(f"| {name} | {ms['fp32']} | {floor} | {ms['bf16']} |")
    return "\n".join(lines)


def steps_table(rows: list[dict]) -> str:
    """Batch 1, by the number of steps."""
    least = min(row["batch"] for row in rows)
    rows = [row for row in rows if row["batch"] == least]
    steps = sorted({row["steps"] for row in rows})
    lines = [
        "| | precision | " + " | ".join(f"{k} step{'s' if k > 1 else ''}" for k in steps) + " |",
        "|---|---|" + "---:|" * len(steps),
    ]
    for name, dtype in dict.fromkeys((row["what"], row["dtype"]) for row in rows):
        found = {r["steps"]: short(r["least_ms"]) for r in rows if (r["what"], r["dtype"]) == (name, dtype)}
        lines.append(f"| {name} | {dtype} | {' | '.join(found.get(k, '') for k in steps)} |")
    return "\n".join(lines)


def conditions(record: dict) -> str:
    machine, results = record["machine"], record["results"]
    where = (
        machine["gpu"] or f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} of an {machine['processor']}"
    )
    rates = ", ".join(f"{rate:g} GFLOP/s in {dtype}" for dtype, rate in results["gflop_per_s"].items())
    note = f" {results['note']}." if results["note"] else ""
    return (
        f"`{record['command']}`, {record['date']}, {where}, torch {machine['torch']}; best matrix rates seen: {rates}, "
        f"{results['gb_per_s']:g} GB/s read.{note}"
    )


def draw(results: dict, path: Path) -> None:
    """Rate over operations a case: under the matrix rate, and under what a call costs at all."""
    plt = require("matplotlib.pyplot", "train")
    figure, axes = plt.subplots(
        1, len(results["gflop_per_s"]), figsize=(13, 4.5), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (dtype, rate) in zip(axes[0], results["gflop_per_s"].items(), strict=True):
        rows = [row for row in results["rows"] if row["dtype"] == dtype]
        for name in dict.fromkeys(row["what"] for row in rows):
            points = [(r["mflop"] / 1e3, r["mflop"] / r["least_ms"]) for r in rows if r["what"] == name]
            ax.plot(*zip(*sorted(points), strict=True), "o-", markersize=4, linewidth=0.8, label=name)
        ax.axhline(rate, color="black", linewidth=1)
        ax.set(xscale="log", yscale="log", title=dtype, xlabel="GFLOP a call")
        ax.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("GFLOP/s, least time; black: best matrix rate")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=130)


def report(device: str) -> None:
    """Fill docs/results/speed.md and draw the roofline of a device."""
    record = read_json(RESULTS / f"latency_{device}.json")
    rows = record["results"]["rows"]
    text = "\n\n".join((conditions(record), chunks_table(rows), steps_table(rows)))
    fill(DOCS / "speed.md", {device: text})
    if device == "cpu":
        fill(DOCS.parents[1] / "README.md", {"time": readme_table(rows)})
    draw(record["results"], DOCS / f"roofline-{device}.png")
    print(text)


if __name__ == "__main__":
    report("cpu")
