"""Conclusions from the finished cells of the study of images: pairs of systems, their tests, sentences on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from action_heads_lab.reproduce.statistics import Paired, counted, unpaired_p
from common import row_of, table
from comparisons import OTHERS, Comparison, listed, told_apart
from images import TASKS, Cell

Row = dict[str, Any]
SMALL = 128  # hidden units of the adapter in the conclusions and in the figure over demonstrations
TRIED = Cell("PickPlaceCan", demos=50)  # the cell beside which other settings were tried
# The aims of the study: tasks, demonstrations and trained parameters.
AIM, FEW, LIGHT = 3, 25, 100_000


def changes(settings: Mapping[str, Any]) -> list[str]:
    """Return how a row or a cell differs from the usual ones, beside its size and its training steps."""
    parts = ["a code for each time step"] * settings["per_step"]
    return parts + [f"{settings['denoising']} denoising steps"] * (settings["denoising"] != Cell.denoising)


def variant(settings: Mapping[str, Any]) -> str:
    """Return how a row or a cell differs from the usual ones, for its name."""
    return "".join(f", {part}" for part in changes(settings))


def longer(row: Row) -> list[str]:
    """Return the training steps of a row, unless they are the usual ones."""
    return [f"{row['steps']:,} training steps"] * (row["steps"] != Cell.steps)


def conclusion(rows: list[Row]) -> str:
    """Return the answer in two sentences: where pretraining pays, and whether it beats normal training."""
    random, normal = (
        [(ours["trained"], tested(ours, other)) for ours, other in pairs(rows) if other["mode"] == mode]
        for mode in ("random-frozen", "normal")
    )
    sizes = [row["trained"] for row in rows if row["hidden"] == SMALL and not row["per_step"]]
    if not (random and normal and sizes):
        return "The comparisons are not finished."
    few = [test for size, test in random if size <= max(sizes)]
    many = [test for size, test in random if size > max(sizes)]
    tasks = [task for task in TASKS if any(test.where == task for test in few)]
    by_task = [f"{times_better(test for test in few if test.where == task)} on {task}" for task in tasks]
    text = (
        f"With at most {max(sizes):,} trained parameters, a frozen pretrained head is better than a random one in "
        f"{listed(by_task).replace(' on ', ' comparisons on ', 1)}{times_worse(few)}"
    )
    text += f"; with more, it is better in {times_better(many)}{times_worse(many)}" if many else ""
    tests = [test for _, test in normal]
    return f"{text}. It is better than normal training in {times_better(tests)} comparisons{times_worse(tests)}."


def times_better(tests: Iterable[Comparison]) -> str:
    """Return in how many of the tests the first system is better."""
    found = [test.is_apart and test.gain > 0 for test in tests]
    return f"{sum(found)} of {len(found)}"


def times_worse(tests: Iterable[Comparison]) -> str:
    """Return in how many of the tests the first system is worse, if in any, to follow `times_better`."""
    found = sum(test.is_apart and test.gain < 0 for test in tests)
    return f" and worse in {found}" * bool(found)


def answer(rows: list[Row]) -> str:
    """Return the details of the answer: the aims, then decoupled beside the others with each adapter and recipe."""
    found = compared(rows)
    if not found:
        return "No cell of this study is finished."
    return "\n".join(f"- {text}" for text in [*aims(rows), *found])


def aims(rows: list[Row]) -> list[str]:
    """Return a sentence on each aim of the study that has rows, with what was reached."""
    few = [pair for pair in pairs(rows) if pair[1]["mode"] == "normal" and pair[0]["demos"] <= FEW]
    light = [pair for pair in pairs(rows) if pair[1]["mode"] == "random-frozen" and pair[0]["trained"] <= LIGHT]
    sentences = []
    if few:
        tasks = {ours["task"] for ours, other in few if is_better(ours, other)}
        sentences.append(
            f"The aim, decoupled better than normal training on {AIM} tasks from {FEW} demonstrations or fewer, is "
            f"{'met' if len(tasks) >= AIM else 'missed'}: it is better on {listed(sorted(tasks)) if tasks else 'none'}."
        )
    if light:
        better = sum(is_better(*pair) for pair in light)
        is_whole = {ours["task"] for ours, _ in light} == set(TASKS)
        state = "missed" if better < len(light) else "met" if is_whole else "open"
        sentences.append(
            f"The aim, decoupled better than random-frozen everywhere with at most {LIGHT:,} trained parameters, is "
            f"{state}: it is better in {better} of {len(light)} comparisons."
        )
    return sentences


def is_better(ours: Row, other: Row) -> bool:
    """Return whether a row has a higher rate than another one, at p < 0.05."""
    test = tested(ours, other)
    return test.is_apart and test.gain > 0


def compared(rows: list[Row]) -> list[str]:
    """Return for each adapter and recipe where decoupled is better or worse than its controls and normal training."""
    groups: dict[tuple[Any, ...], list[tuple[Row, Row]]] = {}
    for pair in pairs(rows):
        settings = tuple(pair[0][name] for name in ("hidden", "steps", "per_step", "denoising"))
        groups.setdefault(settings, []).append(pair)
    lines = []
    for group in sorted(groups.values(), key=lambda group: (bool(changes(group[0][0])), group[0][0]["trained"])):
        ours, sentences = group[0][0], []
        name = f"With {listed([f'{trained(group)} trained parameters', *longer(ours), *changes(ours)])}, decoupled"
        for is_normal in (False, True):
            if tests := [tested(*pair) for pair in group if (pair[1]["mode"] == "normal") == is_normal]:
                sentences.append(told_apart("It" if sentences else name, tests))
        lines.append(" ".join(sentences))
    return lines + ["Numbers of demonstrations are in brackets."] * bool(lines)


def trained(found: list[tuple[Row, Row]]) -> str:
    """Return the numbers of parameters that the first rows of pairs train."""
    return " or ".join(f"{size:,}" for size in sorted({ours["trained"] for ours, _ in found}))


def tried(rows: list[Row]) -> str:
    """Return the table of what was tried beside the cell `TRIED`."""
    base = row_of(rows, asdict(TRIED))
    here = [row for row in rows if (row["task"], row["demos"], row["mode"]) == (TRIED.task, TRIED.demos, TRIED.mode)]
    if base is None or len(here) < 2:
        return "Nothing else is finished."
    lines = []
    for row in here:
        if row is not base:
            beside = {other["mode"]: with_p(row, other) for ours, other in pairs(rows) if ours is row}
            what = listed([f"{row['trained']:,} trained parameters", *longer(row), *changes(row)])
            test = tested(row, base)
            verdict = ("better" if test.gain > 0 else "worse") if test.is_apart else "no difference found"
            other = [beside.get(mode, "not run") for mode in ("random-frozen", "normal")]
            lines.append([what, success(row), f"{verdict} (p = {test.p:.2g})", *other])
    head = ["with", "decoupled", f"beside the {success(base)}", "random-frozen", "normal training"]
    return (
        f"On {TRIED.task} from {TRIED.demos} demonstrations, the adapter of {base['trained']:,} trained parameters has "
        f"{success(base)} on the pretrained head. These were tried in its place:\n\n{table(head, lines)}"
    )


def success(row: Row) -> str:
    """Return the successes of a row."""
    return f"{row['successes']} of {row['episodes']}"


def with_p(ours: Row, other: Row) -> str:
    """Return the successes of the second row with the p-value of its difference from the first."""
    return f"{success(other)} (p = {tested(ours, other).p:.2g})"


def pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Return each row in the mode decoupled with those it is compared with: its controls, and normal training."""

    def belongs(ours: Row, row: Row) -> bool:
        is_control = row["mode"] in ("random-frozen", "blind") and row["trained"] == ours["trained"]
        is_alike = all(row[key] == ours[key] for key in ("task", "demos", "steps", "denoising"))
        return is_alike and (is_control or row["mode"] == "normal")

    return [(ours, row) for ours in rows if ours["mode"] == "decoupled" for row in rows if belongs(ours, row)]


def tested(ours: Row, other: Row) -> Comparison:
    """Return McNemar's exact test of two rows on the same starts, or Fisher's if one holds no outcomes of episodes."""
    if is_paired(ours, other):
        paired = Paired(((counted(list(zip(ours["outcomes"], other["outcomes"], strict=False))),),))
        gain, p = paired.difference, paired.p
    else:
        first, second = [(row["successes"], row["episodes"]) for row in (ours, other)]
        gain, p = first[0] / first[1] - second[0] / second[1], unpaired_p(first, second)
    mode = str(other["mode"])
    return Comparison(OTHERS.get(mode, mode), ours["task"], str(ours["demos"]), gain, p)


def is_paired(ours: Row, other: Row) -> bool:
    """Return whether both rows hold the outcome of each start."""
    return "outcomes" in ours and "outcomes" in other
