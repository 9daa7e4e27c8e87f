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

`{conditioned.head.config.name}` ({config.head_mode}, from `{config.head}`), steered by
`{config.adapter}`; cameras by `{config.vision.backbone}`{text}; condition of {encoder.cond_dim} numbers.
Actions: `{policy.layout}`, chunks of {config.horizon} steps.

| part | frozen parameters | trained parameters |
|---|---:|---:|
{rows}
It needs `pip install action-heads[lerobot]`; all weights are in this repository, those of the frozen head too.

{CITATION}"""
