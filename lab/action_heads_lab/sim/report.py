"""Table and figure of success rates with their 95 % intervals."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.head import ActionHead
from action_heads.io import files
from action_heads_lab.sim.interval import error_bars, wilson

TRIAL = "trial.json"  # in the folder of a head: its results on a task, for its card

COLOURS = {  # of the modes, in all figures
    "decoupled": "#2a6f97",
    "normal": "#6c757d",
    "random-frozen": "#e09f3e",
    "random-relearned": "#9e2a2b",
    "blind": "#adb5bd",
}


@dataclass(frozen=True)
class Row:
    """The results of one trained policy."""

    name: str
    frozen: int
    trainable: int
    successes: int
    episodes: int
    steps_to_success: float | None
    training_seconds: float
    seconds: float
    losses: list[float]

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the success rate."""
        return wilson(self.successes, self.episodes)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.name}: {self.successes} of {self.episodes} episodes succeed (95 % interval {low:.0%} to {high:.0%})"
        )


def save_trial(folder: Path, head: ActionHead, rows: Sequence[Row], what: str, command: str) -> None:
    """Save the rows of a head in its folder, for its card. `what` names task, data and adapter."""
    results: list[dict[str, Any]] = [
        {"name": row.name, "trainable": row.trainable, "successes": row.successes}
        | {"episodes": row.episodes, "interval": row.interval}
        for row in rows
    ]
    record = {"fingerprint": head.fingerprint(), "what": what, "command": command, "rows": results}
    files.write_text(folder / TRIAL, json.dumps(record, indent=2) + "\n")


def smooth(losses: list[float]) -> list[float]:
    """Return at most 100 means of consecutive losses, for a figure."""
    return [float(part.mean()) for part in np.array_split(np.array(losses), min(100, len(losses)))]


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| run | frozen | trainable | success | 95 % interval | ticks to success | training |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row.interval
        steps = "" if row.steps_to_success is None else f"{row.steps_to_success:.0f}"
        lines.append(
            f"| {row.name} | {row.frozen:,} | {row.trainable:,} | {row.successes} of {row.episodes} | "
            f"{low:.0%} to {high:.0%} | {steps} | {row.training_seconds:.0f} s |"
        )
    return "\n".join(lines)


def draw(rows: list[Row], title: str, path: Path) -> None:
    """Draw success rates with intervals on the left, and training losses on the right."""
    require("matplotlib", "train").use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, row in enumerate(rows):
        rate, error = error_bars(row.successes, row.episodes)
        colour = COLOURS[row.name]
        left.bar(i, rate, color=colour, width=0.65)
        left.errorbar(i, rate, error, color="#333333", capsize=4, linewidth=1.2)
        progress = [(j + 0.5) / len(row.losses) for j in range(len(row.losses))]
        right.plot(progress, row.losses, color=colour, label=row.name)
    left.set(ylim=(0, 1.02), ylabel="success rate", title=title)
    left.set_xticks(range(len(rows)), [f"{row.name}\n{row.successes} of {row.episodes}" for row in rows])
    right.set(yscale="log", xlabel="share of training", ylabel="denoising loss")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130, format="png")
    files.write_together(path.parent, {path.name: drawn.getvalue()})
    plt.close(figure)
