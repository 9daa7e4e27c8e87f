"""Table and figures of the study of images, from the cells that are finished.

uv run benchmarks/images_report.py    # fills docs/results/cached-images.md; draws images-*.png beside it
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from action_heads_lab.reproduce.figure import COLOURS
from action_heads_lab.reproduce.page import fill
from common import table
from images import CELLS, TASKS, finished
from stage2_report import DOCS

Row = dict[str, Any]
MODES = ("decoupled", "random-frozen", "normal", "blind")
NAMES = {"blind": "decoupled, without observations"}
SMALL = 24  # hidden units of the adapter in the figure over demonstrations
DEMOS = 25  # demonstrations of the figure over parameters


def draw(name: str, rows: list[Row], over: str, label: str) -> None:
    """Draw success with 95 % intervals over one column, with one panel a task and one line a mode."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(10, 3.4), sharey=True, layout="constrained")
    for ax, task in zip(axes, TASKS, strict=True):
        for mode in MODES:
            points = sorted((row for row in rows if (row["task"], row["mode"]) == (task, mode)), key=lambda r: r[over])
            if not points:
                continue
            x, y = [row[over] for row in points], [row["successes"] / row["episodes"] for row in points]
            low = [max(0.0, rate - row["interval"][0]) for rate, row in zip(y, points, strict=True)]
            high = [max(0.0, row["interval"][1] - rate) for rate, row in zip(y, points, strict=True)]
            style = {"marker": "o", "capsize": 3, "color": COLOURS.get(mode, "#777777"), "label": NAMES.get(mode, mode)}
            ax.errorbar(x, y, [low, high], **style)
        ax.set(title=task, xscale="log", ylim=(-0.03, 1.03), xlabel=label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("success, with 95 % intervals")
    handles = {name: h for ax in axes for h, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(MODES), frameon=False)
    figure.savefig(DOCS / f"{name}.png", dpi=120)
    plt.close(figure)


def line(row: Row) -> list[str]:
    """Return a row of the table."""
    low, high = (round(100 * bound) for bound in row["interval"])
    through = {"code": "the code", "both": "both"}[row["through"]]
    return [
        row["task"],
        str(row["demos"]),
        f"{NAMES.get(row['mode'], row['mode'])}, through {through}",
        f"{row['trained']:,}",
        f"{row['successes']} of {row['episodes']}",
        f"{low} to {high} %",
        f"{row['loss']:.4f}",
        f"{row['training_cpu_seconds']} s",
    ]


def main() -> None:
    rows = finished()
    order = {task: i for i, task in enumerate(TASKS)}
    rows.sort(key=lambda r: (order[r["task"]], r["demos"], MODES.index(r["mode"]), r["trained"]))
    head = ["task", "demonstrations", "system", "trained", "success", "95 % interval", "loss", "CPU time of training"]
    done = f"{len(rows)} of {len(CELLS)} planned cells are finished."
    figures = {"parameters": "trained parameters", "demonstrations": "the number of demonstrations"}
    drawn = "\n\n".join(f"![Success over {over}](images-{name}.png)" for name, over in figures.items())
    fill(DOCS / "cached-images.md", {"results": f"{drawn}\n\n{table(head, map(line, rows))}\n\n{done}"})
    draw("images-parameters", [r for r in rows if r["demos"] == DEMOS], "trained", "trained parameters")
    small = [r for r in rows if r["mode"] == "normal" or r["hidden"] == SMALL]
    draw("images-demonstrations", small, "demos", "demonstrations")


if __name__ == "__main__":
    main()
