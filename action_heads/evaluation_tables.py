"""Tables of an evaluation of `action-heads evaluate-head`, for the terminal, evaluation.md and the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {
    "in_reach": ("in reach", "{:.1%}"),
    "rotation_error": ("rotation error", "{:.3f}"),
    "gripper_decided": ("gripper decided", "{:.1%}"),
    "step_mm": ("step, mm", "{:.1f}"),
    "acceleration_mm": ("accel., mm/step²", "{:.1f}"),
}


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables as Markdown, for the terminal, evaluation.md and the card."""
    deltas = results["mode"] == "delta"
    reach = (
        "Reach is left out, since the actions are deltas, which do not determine where the hand is.\n"
        if deltas
        else f"In reach: no farther from the base than the farthest real chunk, {results['reach_m']:.2f} m.\n"
    )
    floor = results["held_out"]["floor"]
    return f"""# Evaluation of {results["head"]}

All numbers are of held-out chunks of {", ".join(f"`{spec}`" for spec in results["data"])}, ± one standard error.
Random: a head of the same shape with random weights. The evaluation took {results["seconds"]:.0f} s. The command was

    {results["command"] or "action_heads.pretrain.evaluate.evaluate(...)"}
{_alike(results)}
## Denoising

Mean squared error of the clean chunk that the head predicts from a noisy one, in the normalised units of
{results["head"]}, by the noise's share of the variance ({results["chunks"]} chunks). Loss: the training loss of each
head, in its own units.

{_denoising(results)}
## Unconditional chunks

{results["samples"]} chunks, each sampled in 10 denoising steps. Distance: energy distance to real chunks. Between two
draws of real chunks it is {_mean(floor, "{:.4f}")}, and at most {floor["largest"]:.4f}.
Rotation error: mean deviation of the products of the two rows from those of an orthonormal matrix. Step: path length
of a time step. Acceleration: second difference of the path. {reach}{_magnified(results)}{_alone(results)}
{_samples(results)}
## Few denoising steps

The same distance after fewer denoising steps, with {_first(results)}.

{_few(results)}"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is aligned in a terminal too: the first column left, the others right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |\n"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])]
    return line(header) + line(rule) + "".join(map(line, rows))


def _alone(results: Mapping[str, Any]) -> str:
    """Return the caveat about heads whose backbone does not mix time steps, such as `mlp`."""
    alone = [label for label, head in results["heads"].items() if label != "random" and not head["mixes_time"]]
    return (
        f"{' and '.join(alone)} denoises each time step of a chunk separately. Without a condition, consecutive time "
        "steps\nare therefore unrelated: only the condition makes a chunk one motion.\n"
        if alone
        else ""
    )


def _magnified(results: Mapping[str, Any]) -> str:
    """Return the caveat about training chunks that Stage 1 magnified, which also makes samples larger."""
    share = results["task_boxes"]
    return (
        f"{results['head']} was trained with {share:.0%} of the chunks enlarged, as by a task with a small workspace.\n"
        "Its samples are therefore expected to move farther than the data, at a distance above 0.\n"
        if share
        else ""
    )


def _alike(results: Mapping[str, Any]) -> str:
    """Return the caveat about standard errors over windows that share recorded episodes."""
    if not (episodes := results.get("episodes")):
        return ""
    of = ", ".join(f"{count} of `{spec}`" for spec, count in episodes.items())
    return (
        "\nStandard errors treat windows as independent. Windows of one episode are similar, so with few held-out\n"
        f"episodes ({of}) they are too small.\n"
    )


def _denoising(results: Mapping[str, Any]) -> str:
    """Return a table for each source."""
    tables = []
    for spec in results["data"]:
        header = [spec, "loss", "all noise", "0-25 %", "25-50 %", "50-75 %", "75-100 %"]
        rows = []
        for label, head in results["heads"].items():
            for mechanism, error in head["error"][spec].items():
                cells = [head["loss"][spec][mechanism], error["all"], *error["bands"]]
                rows.append([f"{label}, {mechanism}", *(_mean(cell, "{:.3f}") for cell in cells)])
        nothing = _mean(results["held_out"]["mean_chunk_error"][spec], "{:.3f}")
        tables.append(table(header, [*rows, ["always the mean chunk", "", nothing, "", "", "", ""]]))
    return "\n".join(tables)


def _samples(results: Mapping[str, Any]) -> str:
    real = results["held_out"]["samples"]
    keys = [key for key in COLUMNS if key in next(iter(real.values()))]
    rows = [[f"real, {spec}", *(_mean(row[k], COLUMNS[k][1]) for k in keys), ""] for spec, row in real.items()]
    for label, head in results["heads"].items():
        for mechanism, row in head["samples"].items():
            cells = [_mean(row[k], COLUMNS[k][1]) for k in keys]
            rows.append([f"{label}, {mechanism}", *cells, _mean(head["distance"][mechanism], "{:.4f}")])
    return table(["chunks", *(COLUMNS[k][0] for k in keys), "distance"], rows)


def _few(results: Mapping[str, Any]) -> str:
    steps = list(next(iter(results["heads"].values()))["distance_by_steps"])
    rows = [
        [label, *(_mean(head["distance_by_steps"][n], "{:.4f}") for n in steps)]
        for label, head in results["heads"].items()
    ]
    return table(["head", *(f"{n} step{'s' * (n != '1')}" for n in steps)], rows)


def _first(results: Mapping[str, Any]) -> str:
    return next(iter(next(iter(results["heads"].values()))["samples"]))


def _mean(cell: Mapping[str, Any] | None, form: str) -> str:
    if cell is None:
        return ""
    mean = form.format(cell["mean"])
    return mean if cell["se"] is None else f"{mean} ± {form.format(cell['se'])}"
