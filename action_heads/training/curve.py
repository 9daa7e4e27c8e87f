"""Figure of the training and held-out loss."""

from __future__ import annotations

import io
from pathlib import Path

from action_heads._util.extras import require
from action_heads.io import files


def draw_curve(curves: dict[str, list], path: Path, title: str) -> None:
    """Draw curves of points (training step, loss) to a PNG. Curves without points are left out."""
    require("matplotlib", "train").use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, points), colour in zip(curves.items(), ("#9db4c0", "#c05746"), strict=True):
        if points:
            axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), color=colour)
    axes.set(xlabel="training step", ylabel="denoising loss", yscale="log", title=title)
    if any(curves.values()):
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    plt.close(figure)
    files.write_together(path.parent, {path.name: drawn.getvalue()})
