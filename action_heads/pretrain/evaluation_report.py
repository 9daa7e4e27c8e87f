"""Draw the figure of an evaluation.

Axes: b chunks, h horizon, a action.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from action_heads._util.extras import require
from action_heads.actions.spaces import ActionSpace

COLOURS = ("#c05746", "#3d5a80", "#6a994e", "#bc6c25", "#7d4f9e")
GREY = "#9aa5ab"


def draw(results: Mapping[str, Any], paths: Mapping[str, Tensor], space: ActionSpace) -> bytes:
    """Draw the figure, a PNG: errors over noise, distance over steps, paths of chunks (b h a)."""
    require("matplotlib", "train").use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 8.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False)[:, 0]
    left, right = top.subplots(1, 2, width_ratios=[1.6, 1])
    colours = _colours(results["heads"])
    for label, head in results["heads"].items():
        x, y = ([point[key] for point in head["curve"]] for key in ("noise", "mean"))
        spread = [point["se"] or 0 for point in head["curve"]]
        left.errorbar(x, y, spread, color=colours[label], label=label, marker="o", markersize=3, capsize=2)
        few = head["distance_by_steps"]
        bars = [point["se"] or 0 for point in few.values()]
        right.errorbar(list(few), [p["mean"] for p in few.values()], bars, color=colours[label], marker="o", capsize=2)
    nothing = results["held_out"]["mean_chunk_error"].values()
    left.axhline(
        sum(n["mean"] for n in nothing) / len(nothing), color=GREY, linestyle="--", label="always the mean chunk"
    )
    left.set(
        xlabel="noise's share of the variance", ylabel="error of the clean chunk", yscale="log", title=results["head"]
    )
    left.legend(frameon=False)
    right.axhline(max(results["held_out"]["floor"]["largest"], 1e-6), color=GREY, linestyle="--")
    right.set(
        xlabel="denoising steps",
        ylabel="energy distance to held-out chunks",
        title="dashed: two draws of held-out chunks",
        ylim=(0, None),
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    if space.slices("position"):
        _draw_paths(bottom, {label: _path(chunks, space) for label, chunks in paths.items()}, colours)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
    return file.getvalue()


def _draw_paths(figure: Any, paths: Mapping[str, Tensor], colours: Mapping[str, str]) -> None:
    """Draw paths (b h 3) from above, all at the scale of the held-out ones, with a dot at each start."""
    figure.suptitle("paths of chunks seen from above, metres")
    low, high = paths["held out"][..., :2].flatten(0, 1).aminmax(dim=0)
    margin = 0.08 * (high - low).max()
    shown = list(paths)[:3] + ["random"] * ("random" not in list(paths)[:3])
    for axes, label in zip(figure.subplots(1, len(shown)), shown, strict=True):
        colour = colours.get(label, "#333333")
        for path in paths[label][:: max(1, len(paths[label]) // 24)]:
            axes.plot(*path[:, :2].T, color=colour, linewidth=0.9, alpha=0.75)
            axes.plot(*path[0, :2], ".", color=colour, markersize=4)
        axes.set(title=label, aspect="equal")
        axes.set(xlim=(float(low[0] - margin), float(high[0] + margin)))
        axes.set(ylim=(float(low[1] - margin), float(high[1] + margin)))
        axes.locator_params(nbins=5)
        axes.spines[["top", "right"]].set_visible(False)


def _path(chunks: Tensor, space: ActionSpace) -> Tensor:
    """Return the path of the first hand (b h 3). Deltas are summed from the start of the chunk."""
    position = chunks[..., space.slices("position")[0]]
    return position if space.mode == "absolute" else pad(position.cumsum(1), (0, 0, 1, 0))


def _colours(labels: Mapping[str, Any]) -> dict[str, str]:
    known = [label for label in labels if label != "random"]
    return {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(known)} | {"random": GREY}
