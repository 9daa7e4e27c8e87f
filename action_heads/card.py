"""Model cards of heads and adapters: description, use, training, results, limitations and licence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from action_heads.adapters import ADAPTERS
from action_heads.io.files import read_json
from action_heads.io.listing import sizes

if TYPE_CHECKING:
    from action_heads.head import ActionHead
    from action_heads.policy import ConditionedHead

T = TypeVar("T")

_RECORDED = (
    "2.2 hours of recorded Franka Panda joint motion: Ctrl-World's DROID set-up recordings, LILA and haptic-skin "
    "(all MIT; credits in `action_heads/kinematics/data/README.md`)"
)
# Of a source, or of all of its kind.
CREDITS = {
    "synthetic": "synthetic motion, no recording",
    "synthetic:panda": "synthetic minimum-jerk motion through the Franka Panda's forward kinematics; no recording",
    "recorded:panda": _RECORDED,
    "npz:panda_kinematics": _RECORDED,  # the same file by its other name
    "lerobot:lerobot/droid_1.0.1": (
        "DROID, CC BY 4.0; Khazatsky et al. 2024, [arXiv 2403.12945](https://arxiv.org/abs/2403.12945)"
    ),
}
KEPT = "<!-- What stands below this line is yours: it is kept whenever this card is written again. -->\n"

FRONT_MATTER = """---
library_name: action-heads
pipeline_tag: robotics
license: {licence}
tags: [robotics, action-head, diffusion-policy, {tag}]
---
"""

CITATION = """```bibtex
@article{decoupled_action_expert,
  title = {Decoupled Action Expert: Confining Task Knowledge to the Conditioning Pathway},
  author = {Zhou and Lin and Fu and Li and Zhou and Wu},
  journal = {arXiv:2511.12101},
  year = {2025}
}
```
"""


def origin(spec: str) -> str:
    """Return `kind:where` of a data source, without options and weight, which do not change its owner.

    `pretrain.sources.Spec` is not used here, since it imports every reader and rejects what other releases wrote.
    """
    return re.sub(r"@(\d+(\.\d+)?|\.\d+)$", "", spec).partition("?")[0]


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
    front = FRONT_MATTER.format(tag=c.backbone, licence=str(c.training.get("licence", "apache-2.0")).lower())
    sections = [
        f"""# {name}

A frozen, task-agnostic action head for [action-heads](https://arxiv.org/abs/2511.12101): it was pretrained on motion
alone, without a single observation, and is steered by a small trainable adapter.

```python
import torch
from action_heads import ActionHead
from action_heads.adapters import {adapter}

head = ActionHead.from_pretrained("{name}")  # frozen
policy = head.attach({adapter}(cond_dim=512))  # the only thing that trains: policy.loss(actions, cond).backward()
chunk = policy.sample(torch.randn(1, 512), steps=10)  # (1, {c.horizon}, {c.space.dim}) in robot units
```

| | |
|---|---|
| backbone | `{c.backbone}`, width {c.width}, {c.depth} blocks |
| parameters | {counts}; all frozen |
| takes | {", ".join(c.mechanisms)} |
| steered through | {f"a code of {c.rank} dimensions, every block, or both" if c.coded else "every block"} |
| predicts | {c.objective.prediction}, {c.objective.train_steps} diffusion steps |
| action | {", ".join(f"{kind} {width}" for kind, width in c.space.parts)}; chunks of {c.horizon} steps |
| mode, frame | {c.space.mode}; {c.space.frame} |
""",
        "## Training\n\n" + _training(c.training, there),
    ]
    if folder is not None and "evaluation.json" in there and measured(folder / "evaluation.json") == head.fingerprint():
        sections.append(_evaluation(folder, there))
    if folder is not None and "trial.json" in there and measured(folder / "trial.json") == head.fingerprint():
        sections.append(_shown(folder / "trial.json", _trial))
    if folder is not None and "latency.json" in there:
        sections.append(_shown(folder / "latency.json", lambda record: _latency(record, c.backbone)))
    sections += ["## Limitations\n\n" + _limitations(head), "## Citation\n\n" + CITATION]
    return front + "\n".join(sections) + "\n" + KEPT + _kept(folder)


def _training(training: Mapping[str, Any], there: set[str]) -> str:
    """Return data and credits, the command, and the training record without its settings, which config.json holds."""
    if not training:
        return "Not trained: random weights.\n"
    data = training.get("data", [])
    lines = ["Data:", "", *(f"- `{spec}`: {credit(spec, training) or 'no credit on record'}" for spec in data), ""]
    if command := training.get("command"):
        lines += ["```bash", command, "```", ""]
    said = ("settings", "command", "data", "credits")
    lines += [f"- {k.replace('_', ' ')}: `{json.dumps(v)}`" for k, v in training.items() if k not in said]
    if "curves.png" in there:
        lines += ["", "![Training and held-out loss over steps](curves.png)"]
    return "\n".join(lines) + "\n"


def measured(path: Path) -> str | None:
    """Return the fingerprint of the weights that a file of results is about, since older weights do not count."""
    return _shown(path, lambda record: record.get("fingerprint"))


def _shown(path: Path, show: Callable[[Mapping[str, Any]], T]) -> T:
    """Return `show` of the content of a JSON file of results. If it is damaged, raise a ValueError that names it."""
    try:
        return show(read_json(path))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): measure again, or remove it") from error


def _evaluation(folder: Path, there: set[str]) -> str:
    """Return the tables and the figure of `action-heads evaluate-head`."""
    from action_heads.pretrain.evaluation_report import markdown

    # One level down: the card has a title already.
    text = _shown(folder / "evaluation.json", markdown).replace("\n## ", "\n### ").replace("# ", "## ", 1)
    picture = "\n![Error over noise, distance over sampling steps, and paths of chunks](evaluation.png)\n"
    return text + (picture if "evaluation.png" in there else "")


def _trial(record: Mapping[str, Any]) -> str:
    """Return the success rates of this head and its controls on a task (`action_heads_lab.sim.report.save_trial`)."""
    rows = [
        f"| {row['name']} | {row['trainable']:,} | {row['successes']} of {row['episodes']} | "
        f"{row['interval'][0]:.0%} to {row['interval'][1]:.0%} |\n"
        for row in record["rows"]
    ]
    return (
        f"## On a task\n\n{record['what']}, by\n\n    {record['command']}\n\n"
        f"| run | trained parameters | success | 95 % interval |\n|---|---:|---:|---:|\n{''.join(rows)}"
    )


def _latency(record: Mapping[str, Any], backbone: str) -> str:
    """Return the rows of `benchmarks/latency.py` for this backbone."""
    rows = [row for row in record["results"] if str(row["what"]).startswith(backbone)]
    machine = record.get("machine", {})
    on = machine.get("gpu") or f"{machine.get('processor', 'unknown processor')}, {machine.get('threads', '?')} threads"
    body = "".join(f"| {row['what']} | {row['batch']} | {row['ms']} |\n" for row in rows)
    return f"## Time of a chunk\n\nOn {on}: `{record['command']}`\n\n| head | batch | ms |\n|---|--:|--:|\n{body}"


def _limitations(head: ActionHead) -> str:
    space = head.config.space
    lines = [
        "By itself it does no task: it needs an adapter trained on yours.",
        "A low denoising loss on held-out motion is no promise of success on a task, which only roll-outs measure.",
        f"It knows the motion of the data above, as {space.mode} actions in this frame: {space.frame}. Another robot, "
        "frame or control rate is untested unless the tables above say so.",
    ]
    if not head.backbone.mixes_time:
        lines.append(
            f"`{head.config.backbone}` denoises each step of a chunk alone: its unconditional chunks jump from step to "
            "step, and a chunk cannot keep two ways of doing a task apart."
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
    name = type(policy.adapter).__name__
    return (
        FRONT_MATTER.format(tag=policy.adapter.name, licence="apache-2.0")
        + f"""# {repo_id}

A {name} adapter of {policy.num_trainable:,} trained parameters for the frozen head `{policy.head.config.name}`.
It reads a condition of width {policy.adapter.config.cond_dim}. Of the head it computes with {policy.num_frozen:,}
frozen parameters: the denoiser, and the modulation for this kind of adapter.

```python
from action_heads import ConditionedHead

policy = ConditionedHead.from_pretrained("{repo_id}")
actions = policy.sample(cond, steps=10)
```
"""
    )
