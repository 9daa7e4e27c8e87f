"""Draw the figures of docs/results that no other command draws: success with 95 % intervals.

uv run benchmarks/figures.py    # from benchmarks/results
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from action_heads_lab.sim import report
from action_heads_lab.sim.interval import error_bars
from action_heads_lab.sim.report import COLOURS
from common import DOCS, RESULTS, read_results
from stage2_report import finished, label
from stage2_studies import Cell

from action_heads.io.files import read_json

Rate = tuple[int, int]  # successes, episodes
SIZES = {"0.1m": "64 × 4", "0.3m": "64 × 8", "base": "128 × 4", "1m": "128 × 8", "2m": "160 × 8", "5m": "256 × 8"}
LEROBOT = {
    "diffusion": "diffusion",
    "dae": "dae, pretrained",
    "dae-random-frozen": "dae, random head",
    "dae-blind": "dae, no image",
    "dae-quarter": "dae, pretrained,\n60 training steps",
    "dae-quarter-random-frozen": "dae, random head,\n60 training steps",
}


def draw(file: str, task: str, series: Mapping[str, Mapping[str, Rate]]) -> None:
    """Draw success as horizontal bars, a group for each label and a bar for each series."""
    labels = list(dict.fromkeys(name for rates in series.values() for name in rates))
    width = 0.8 / len(series)
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.22 * len(labels) * (1 + len(series))), layout="constrained")
    for i, (system, rates) in enumerate(series.items()):
        for name, (won, of) in rates.items():
            rate, error = error_bars(won, of)
            at = labels.index(name) + (i - (len(series) - 1) / 2) * width
            colour = COLOURS.get((system or name).partition(",")[0], "#2a6f97")
            ax.barh(at, rate, width, xerr=error, color=colour, capsize=2, error_kw={"lw": 0.8}, label=system)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.02), xlabel=f"success on {task}, with 95 % intervals")
    ax.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(series), frameon=False)
    figure.savefig(DOCS / f"{file}.png", dpi=120)
    plt.close(figure)


def by_system(rows: list[dict], name: str, system: str) -> dict[str, dict[str, Rate]]:
    """Return the rates of rows by system and name.

    Rows of the same cell are pooled, and intervals of pooled rates do not cover the spread of training seeds.
    """
    found: dict[str, dict[str, Rate]] = {}
    for row in rows:
        won, of = found.setdefault(row[system], {}).get(row[name], (0, 0))
        found[row[system]][row[name]] = (won + row["successes"], of + row["episodes"])
    return found


def main() -> None:
    demos = [read_json(RESULTS / f"demo_lift{end}.json") for end in ("_mixer", "", "_0.7m")]
    rows = [row | {"head": demo["head"]["name"]} for demo in demos for row in demo["rows"]]
    draw("demo-heads", "Lift", by_system(rows, "head", "name"))
    mixer = [report.Row(**row) for row in demos[0]["rows"]]
    report.draw(mixer, f"Lift: {demos[0]['demonstrations']} demonstrations", DOCS / "demo-lift.png")
    sizes = {c: r for study in ("size", "adapter") for c, r in finished(study) if c.episodes and c.lr == 1e-2}
    small = {c: r for c, r in sizes.items() if c.hidden == 32 and c.through == "code" and c.head in SIZES}
    rows = [{"mode": c.mode, "size": SIZES[c.head], "episodes": c.episodes} | r for c, r in small.items()]
    rows.sort(key=lambda row: list(SIZES.values()).index(row["size"]))
    draw("head-size", "Lift", by_system(rows, "size", "mode"))
    stack = sorted(dict([*finished("stack"), *finished("per_step")]).items(), key=lambda row: row[1]["trainable"])
    names = {c: label(replace(c, lr=Cell.lr)) for c, _ in stack}
    draw("stack", "Stack", {"": {names[c]: (r["successes"], c.episodes) for c, r in stack}})
    rows = read_results("reshape")
    draw("other-shapes", "Lift", by_system(rows, "layout", "system"))
    rows = read_results("execution")
    draw("execution", "Lift", {"": {row["way"]: (row["successes"], row["episodes"]) for row in rows}})
    policies = read_results("lerobot_success")["rows"]
    rates = {LEROBOT[k]: (row["eval"]["successes"], row["eval"]["episodes"]) for k, row in policies.items()}
    draw("lerobot", "the task", {"": {name: rates[name] for name in LEROBOT.values()}})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
