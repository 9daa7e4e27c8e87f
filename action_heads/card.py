"""Model cards of heads and adapters: description, use, training, results, limitations and licence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from action_heads._util.machine import processor_text
from action_heads.adapters import ADAPTERS
from action_heads.evaluation_tables import markdown
from action_heads.io import hub
from action_heads.io.files import read_json
from action_heads.io.listing import Sizes, sizes
from action_heads.io.sources import DROID, WHOLE_DROID, origin

if TYPE_CHECKING:
    from action_heads.head import ActionHead
    from action_heads.policy import ConditionedHead

T = TypeVar("T")

_RECORDED = (
    "2.2 hours of recorded Franka Panda joint motion: Ctrl-World's DROID set-up recordings, LILA and haptic-skin "
    "(all MIT; credits in `action_heads/kinematics/data/README.md`)"
)
# Credits by source, or by kind of source.
CREDITS = {
    "synthetic": "synthetic motion, no recording",
    "synthetic:panda": "synthetic minimum-jerk motion through the Franka Panda's forward kinematics; no recording",
    "synthetic:droid": (
        "synthetic minimum-jerk motion of the Panda whose postures, speed and use of the gripper have the statistics "
        "that DROID published (of DROID 1.0.1, CC BY 4.0; Khazatsky et al. 2024, "
        "[arXiv 2403.12945](https://arxiv.org/abs/2403.12945)); no recording"
    ),
    "recorded:panda": _RECORDED,
    "recorded:droid_setup_ctrlworld": (
        "recordings of Ctrl-World's robot, which is built as DROID's (MIT; credit in "
        "`action_heads/kinematics/data/README.md`)"
    ),
    "npz:panda_kinematics": _RECORDED,  # another name of the same file
    WHOLE_DROID: "DROID, CC BY 4.0; Khazatsky et al. 2024, [arXiv 2403.12945](https://arxiv.org/abs/2403.12945)",
}
REPOSITORY, PAPER = "https://github.com/action-heads/action-heads", "https://arxiv.org/abs/2511.12101"
KEPT = "<!-- What stands below this line is yours: it is kept whenever this card is written again. -->\n"

FRONT_MATTER = """---
library_name: action-heads
pipeline_tag: robotics
license: {licence}
tags: [robotics, action-head, diffusion-policy, {tag}]
---
"""

CITATION = """action-heads is an independent implementation, not by the authors of the paper. Please cite the paper:

```bibtex
@article{decoupled_action_expert,
  title = {Decoupled Action Expert: Confining Task Knowledge to the Conditioning Pathway},
  author = {Zhou and Lin and Fu and Li and Zhou and Wu},
  journal = {arXiv:2511.12101},
  year = {2025}
}
```
"""

MODES = {
    "absolute": "absolute targets",
    "delta": "changes from one time step to the next",
}
# The columns of a chunk: meaning and unit by kind of part.
COLUMNS = {
    "position": ("x, y, z of the tool centre point", "m"),
    "rotation": ("rotation of the tool: the first two rows of its rotation matrix", "none"),
    "gripper": ("gripper", "-1 open to +1 closed"),
    "joint": ("joint angles", "rad"),
}
RECORD = {  # the keys of a training record, as the card names them
    "minutes": "training time, minutes",
    "machine": "precision and device",
    "steps": "training steps",
    "batch_size": "chunks in a batch",
    "chunks": "chunks in training",
    "signal": "Stage 1 conditioned on",
    "held_out_loss": "held-out loss without a condition",
    "held_out_loss_with_signal": "held-out loss with Stage 1's conditioning",
    "chunks_per_second": "chunks per second",
    "seed": "seed",
    "sources": "shares of the data",
}
LOSSES = (
    "The held-out loss is the mean squared error of the prediction, in normalised units, on motion that was not used "
    "for training. It cannot reach 0, since noise hides which motion it was.\n"
)
RUNS = {
    "decoupled": "this head, frozen; only the adapter trains",
    "random-frozen": "a head with random weights, frozen; the same adapter trains",
    "random-relearned": "as random-frozen, but the head's step modulation trains too",
    "normal": "a head with random weights; everything trains",
    "blind": "this head, frozen, but the adapter gets no observations",
}


def credit(spec: str, training: Mapping[str, Any]) -> str | None:
    """Return the credit and licence of a data source, from the head's record if it has one, else from `CREDITS`."""
    own, where = training.get("credits", {}), origin(spec)
    return own.get(spec) or own.get(where) or CREDITS.get(where) or CREDITS.get(where.partition(":")[0])


def head_card(head: ActionHead, repo_id: str | None = None, folder: Path | None = None) -> str:
    """Return the model card (README.md) of a head.

    Args:
        head: the head.
        repo_id: the name on the card; the head's own if None.
        folder: the head's folder, whose figures and results the card shows, and whose older card's notes are kept.

    Raises:
        ValueError: a file of results in `folder` is damaged.
    """
    c, name = head.config, repo_id or head.config.name
    there = {path.name for path in folder.iterdir()} if folder is not None and folder.is_dir() else set()
    adapter = _class_name(c.mechanisms[0])
    counts = sizes({name: parameter.shape for name, parameter in head.named_parameters()})
    licence = str(c.training.get("licence", "apache-2.0")).lower()
    sections = [
        f"""# {name}

A pretrained, frozen action head for robot policies, for the library [action-heads]({REPOSITORY}). It is a diffusion
model that denoises chunks of {c.horizon} actions. It was pretrained on motion alone, without images or other
observations, as in [Decoupled Action Expert]({PAPER}). To use it, attach a small adapter, which turns the output of
your encoder or VLM into modulation of the head. The adapter is the only part that trains.
{_droid(c.training, c.backbone)}{_size(name, counts)}
```python
import torch
from action_heads import ActionHead
from action_heads.adapters import {adapter}

head = ActionHead.from_pretrained("{name}")  # frozen
policy = head.attach({adapter}(cond_dim=512))  # cond_dim: width of your encoder's output

cond = torch.randn(8, 512)  # output of your encoder, one row for each chunk
actions = head.sample(8)  # in place of your demonstrations: chunks (8, {c.horizon}, {c.space.dim}) in robot units
policy.loss(actions, cond).backward()  # gradients for policy.trainable_parameters() alone
chunk = policy.sample(cond, steps=10)  # (8, {c.horizon}, {c.space.dim}) in robot units
policy.save_adapter("out/my-task")  # the adapter, with a pointer to this head
```

| property | value |
|---|---|
| backbone | `{c.backbone}`, width {c.width}, {c.depth} blocks |
| parameters | {counts.text(name)}; all frozen |
| adapters | {", ".join(f"`{_class_name(m)}`" for m in c.mechanisms)} |
| an adapter acts through | {f"a motion code of {c.rank} numbers, every block, or both" if c.coded else "every block"} |
| objective | predicts {c.objective.prediction}, {c.objective.train_steps} noise levels |
""",
        "## Actions\n\n" + _actions(head),
        "## Training\n\n" + _training(c.training, there),
    ]
    if folder is not None and "evaluation.json" in there and measured(folder / "evaluation.json") == head.fingerprint():
        sections.append(_evaluation(folder, there))
    if folder is not None and "trial.json" in there and measured(folder / "trial.json") == head.fingerprint():
        sections.append(_shown(folder / "trial.json", _trial))
    if folder is not None and "latency.json" in there:
        sections.append(_shown(folder / "latency.json", lambda record: _latency(record, c.backbone)))
    sections += ["## Limitations\n\n" + _limitations(head), f"## Licence\n\nThe licence of the weights is {licence}.\n"]
    sections.append("## Citation\n\n" + CITATION)
    return FRONT_MATTER.format(tag=c.backbone, licence=licence) + "\n".join(sections) + "\n" + KEPT + _kept(folder)


def _droid(training: Mapping[str, Any], backbone: str) -> str:
    """Return how much of DROID is in a head that saw some, but not the dataset, and the command for all of it."""
    sources = [(origin(row["source"]), row) for row in training.get("sources", ())]
    sources = [(where, row) for where, row in sources if where in DROID]
    if not sources or any(where == WHOLE_DROID for where, _ in sources):
        return ""
    seen = []
    for where, row in sources:
        size = f", {row['episodes']} episodes or {row['hours']:g} hours" if "episodes" in row else ""
        seen.append(f"{100 * row['share']:.3g} % {DROID[where]} (`{row['source']}`{size})")
    first = training.get("settings", {}).get("init")
    start = f" Its training went on from the weights of `{first}`{_nothing_of_droid(first)}." if first else ""
    return (
        f"\n**How much of DROID is in it.** Of its training chunks, {', '.join(seen)}. DROID 1.0.1 itself, 76,000 "
        f"episodes, was not at hand.{start} With access to the Hub, this command trains a head on all of it:\n\n"
        f"```bash\naction-heads pretrain --arch {backbone} --size 5m --data '{WHOLE_DROID}?bad=skip&short=skip' "
        f"--name you/{backbone}-5m-droid-1.0.1 --out heads/{backbone}-5m-droid-1.0.1\n```\n"
    )


def _nothing_of_droid(name: str) -> str:
    """Return a clause that a head saw nothing of DROID, or nothing unless the record of a bundled head says so."""
    if (folder := hub.bundled().get(name)) is None:
        return ""
    training = read_json(folder / "config.json")["training"]
    saw = training.get("settings", {}).get("init") or any(origin(r["source"]) in DROID for r in training["sources"])
    return "" if saw else ", which saw nothing of DROID"


def _size(name: str, counts: Sizes) -> str:
    """Return a sentence on the size in a head's name, if it has one and this is the size of the denoiser."""
    if (size := counts.size_in(name)) is None:
        return ""
    return (
        f"\nThe size in the name, `{size}m`, stands for {size} million parameters: those of the denoiser, which "
        f"is the backbone with its step embedding ({counts.denoiser:,}).\n"
    )


def _actions(head: ActionHead) -> str:
    """Return the meaning of every column of a chunk, with units, mode and frame."""
    c, rows, at = head.config, [], 0
    for kind, width in c.space.parts:
        meaning, unit = COLUMNS[kind]
        columns = f"{at}" if width == 1 else f"{at} to {at + width - 1}"
        rows.append(f"| {columns} | {meaning} | {unit} |\n")
        at += width
    return (
        f"A chunk is {c.horizon} consecutive actions of {c.space.dim} numbers. They are {MODES[c.space.mode]}. "
        f"Frame: {c.space.frame}. `policy.loss` expects chunks in these units, and `policy.sample` returns them.\n\n"
        f"| columns | meaning | unit |\n|---|---|---|\n{''.join(rows)}"
    )


def _training(training: Mapping[str, Any], there: set[str]) -> str:
    """Return data and credits, the command, and the training record without its settings, which config.json holds."""
    if not training:
        return "This head was not trained: its weights are random.\n"
    data = training.get("data", [])
    lines = ["Data:", "", *(f"- `{spec}`: {credit(spec, training) or 'no credit on record'}" for spec in data), ""]
    if command := training.get("command"):
        lines += ["```bash", command, "```", ""]
    apart = ("settings", "inputs", "command", "data", "credits", "licence")
    rows = [f"| {RECORD.get(k, k.replace('_', ' '))} | {_text(v)} |" for k, v in training.items() if k not in apart]
    lines += ["| record | value |", "|---|---|", *rows] if rows else []
    if "held_out_loss" in training:
        lines += ["", LOSSES.rstrip()]
    if "curves.png" in there:
        lines += ["", "![Training and held-out loss over training steps](curves.png)"]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """Return a value of a training record as text for a table."""
    if isinstance(value, Mapping):
        return "; ".join(f"{k.replace('_', ' ')} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")


def measured(path: Path) -> str | None:
    """Return the fingerprint of the weights that a file of results is about, since older weights do not count."""
    return _shown(path, lambda record: record.get("fingerprint"))


def _shown(path: Path, show: Callable[[Mapping[str, Any]], T]) -> T:
    """Return `show` of the content of a JSON file of results. If it is damaged, raise a ValueError that names it."""
    try:
        return show(read_json(path))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). Measure again, or remove it."
        ) from error


def _evaluation(folder: Path, there: set[str]) -> str:
    """Return the tables and the figure of `action-heads evaluate-head`."""
    # Headings move one level down, since the card has a title.
    text = _shown(folder / "evaluation.json", markdown).replace("\n## ", "\n### ").replace("# ", "## ", 1)
    figure = "\n![Error over noise, distance over denoising steps, and paths of chunks](evaluation.png)\n"
    return text + (figure if "evaluation.png" in there else "")


def _trial(record: Mapping[str, Any]) -> str:
    """Return the success rates of this head and its controls on a task (`action_heads_lab.sim.report.save_trial`)."""
    rows = [
        f"| {row['name']} | {row['trainable']:,} | {row['successes']} of {row['episodes']} | "
        f"{row['interval'][0]:.0%} to {row['interval'][1]:.0%} | {RUNS.get(row['name'], '')} |\n"
        for row in record["rows"]
    ]
    return (
        f"## On a task\n\n{record['what']}. Success is counted over episodes with initial states that are not in the "
        f"demonstrations. The command was\n\n    {record['command']}\n\n"
        "| run | trained parameters | success | 95 % interval | setting |\n|---|---:|---:|---:|---|\n"
        f"{''.join(rows)}"
    )


def _latency(record: Mapping[str, Any], backbone: str) -> str:
    """Return the rows of `benchmarks/latency.py` for this backbone."""
    rows = [row for row in record["results"] if str(row["what"]).startswith(backbone)]
    machine = record.get("machine", {})
    threads = machine.get("threads", "?")
    cpu = f"{processor_text(machine)}, {threads} thread{'s' * (threads != 1)}"
    on = machine.get("gpu") or cpu
    body = "".join(f"| {row['what']} | {row['batch']} | {row['ms']} |\n" for row in rows)
    return f"## Time of a chunk\n\nOn {on}: `{record['command']}`\n\n| head | batch | ms |\n|---|--:|--:|\n{body}"


def _limitations(head: ActionHead) -> str:
    lines = [
        "The head does no task by itself. It needs an adapter that you train on your task.",
        "A low loss on held-out motion does not guarantee success on a task. Only rollouts measure that.",
        "The head was trained only on the data above. Other robots, frames or control rates are untested unless a "
        "table above includes them.",
    ]
    if not head.backbone.mixes_time:
        lines.append(
            f"The backbone `{head.config.backbone}` denoises each action of a chunk independently. Unconditional "
            "chunks therefore jump between time steps, and a chunk cannot commit to one of two ways to do a task."
        )
    return "".join(f"- {line}\n" for line in lines)


def _kept(folder: Path | None) -> str:
    """Return what a user wrote below the line of an earlier card."""
    card = folder / "README.md" if folder is not None else None
    return card.read_text(encoding="utf-8").partition(KEPT)[2] if card is not None and card.exists() else ""


def _class_name(mechanism: str) -> str:
    """Return the name of a mechanism's adapter class."""
    return ADAPTERS[mechanism].__name__


def adapter_card(policy: ConditionedHead, repo_id: str) -> str:
    """Return the model card (README.md) of an adapter."""
    c, space, adapter = policy.adapter.config, policy.head.config.space, type(policy.adapter).__name__
    if isinstance(c.cond_dim, Mapping):
        takes = f"a dict of {', '.join(f'{name} ({width})' for name, width in c.cond_dim.items())}"
        example = f"{{{', '.join(f'{name!r}: torch.randn(1, {width})' for name, width in c.cond_dim.items())}}}"
    else:
        takes, example = f"width {c.cond_dim}", f"torch.randn(1, {c.cond_dim})"
    return (
        FRONT_MATTER.format(tag=policy.adapter.name, licence="apache-2.0")
        + f"""# {repo_id}

A trained {adapter} adapter for the frozen action head `{policy.head.config.name}`, for the library
[action-heads]({REPOSITORY}). The adapter has {policy.num_trainable:,} trained parameters.
It turns a condition, which is the output of an encoder ({takes}), into modulation of the head, and the head
denoises action chunks. The policy also computes with {policy.num_frozen:,} frozen parameters of the head.

```python
import torch
from action_heads import ConditionedHead

policy = ConditionedHead.from_pretrained("{repo_id}")  # loads the head too
cond = {example}  # output of your encoder
actions = policy.sample(cond, steps=10)  # (1, {policy.head.config.horizon}, {space.dim}) in robot units
```
"""
    )
