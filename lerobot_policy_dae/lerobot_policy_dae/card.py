"""The section that a policy's model card adds to LeRobot's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action_heads.card import CITATION

if TYPE_CHECKING:
    from lerobot_policy_dae.modeling_dae import DAEPolicy


def section(policy: DAEPolicy) -> str:
    """Return Markdown with the parts of a policy, their frozen and trained parameters, and the action layout."""
    config, conditioned, encoder = policy.config, policy.conditioned, policy.encoder
    counts = policy.counts()
    rows = "".join(f"| {part} | {frozen:,} | {trained:,} |\n" for part, (frozen, trained) in counts.items())
    text = f", language by `{config.text.model}`" if config.text else ""
    return f"""
## A frozen action head

The head is `{conditioned.head.config.name}` ({config.head_mode}, from `{config.head}`), with the adapter
`{config.adapter}`. Images are encoded by `{config.vision.backbone}`{text}. The condition has {encoder.cond_dim}
numbers. The action layout is `{policy.layout}`, and a chunk has {config.horizon} time steps.

| part | frozen parameters | trained parameters |
|---|---:|---:|
{rows}
Install `action-heads[lerobot]` to use the policy. This repository has all its weights, including the frozen head's.

{CITATION}"""
