"""Model cards for the Hub: what a head or an adapter is, how it was made, how it is used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from action_heads.head import ActionHead
    from action_heads.policy import ConditionedHead

CREDITS = {
    "synthetic:panda": "synthetic minimum-jerk motion through the Franka Panda's forward kinematics",
    "recorded:panda": (
        "2.2 hours of recorded Franka Panda joint motion: Ctrl-World's DROID set-up recordings, LILA and haptic-skin "
        "(all MIT; credits in `action_heads/kinematics/data/README.md`)"
    ),
}

FRONT_MATTER = """---
library_name: action-heads
pipeline_tag: robotics
license: apache-2.0
tags: [robotics, action-head, diffusion-policy, {tag}]
---
"""

HEAD = """# {name}

A frozen, task-agnostic action head for [action-heads](https://arxiv.org/abs/2511.12101): it was pretrained on motion
alone, without a single observation, and is steered by a small trainable adapter.

```python
from action_heads import ActionHead
from action_heads.adapters import AdaLNZero

head = ActionHead.from_pretrained("{name}")
policy = head.attach(AdaLNZero(cond_dim=2048))
loss = policy.loss(actions, cond)        # actions (b, {horizon}, {dim}) in robot units, cond (b, 2048)
actions = policy.sample(cond, steps=10)
```

| | |
|---|---|
| backbone | `{backbone}`, width {width}, {depth} blocks |
| parameters | {parameters:,} |
| takes | {mechanisms} |
| predicts | {prediction}, {train_steps} diffusion steps |
| action | {action} |
| mode, frame | {mode}; {frame} |

## Training

{training}
"""


def head_card(head: ActionHead) -> str:
    """README.md of a head."""
    c = head.config
    record = {key: value for key, value in c.training.items() if key != "settings"}
    lines = [f"- {key.replace('_', ' ')}: `{json.dumps(value)}`" for key, value in record.items()]
    lines += [f"- {name}: {CREDITS[name]}" for name in record.get("data", []) if name in CREDITS]
    return FRONT_MATTER.format(tag=c.backbone) + HEAD.format(
        name=c.name,
        horizon=c.horizon,
        dim=c.space.dim,
        backbone=c.backbone,
        width=c.width,
        depth=c.depth,
        parameters=head.num_parameters,
        mechanisms=", ".join(c.mechanisms),
        prediction=c.objective.prediction,
        train_steps=c.objective.train_steps,
        action=", ".join(f"{kind} {width}" for kind, width in c.space.parts),
        mode=c.space.mode,
        frame=c.space.frame,
        training="\n".join(lines) or "Not trained: random weights.",
    )


def adapter_card(policy: ConditionedHead, repo_id: str) -> str:
    """README.md of an adapter."""
    name = type(policy.adapter).__name__
    return (
        FRONT_MATTER.format(tag=policy.adapter.name)
        + f"""# {repo_id}

A {name} adapter of {policy.num_trainable:,} trained parameters for the frozen head `{policy.head.config.name}`
({policy.num_frozen:,} frozen parameters). It reads a condition of width {policy.adapter.config.cond_dim}.

```python
from action_heads import ConditionedHead

policy = ConditionedHead.from_pretrained("{repo_id}")
actions = policy.sample(cond, steps=10)
```
"""
    )
