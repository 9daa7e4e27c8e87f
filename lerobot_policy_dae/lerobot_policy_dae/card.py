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
    eyes, kept = f"Images are encoded by `{config.vision.backbone}`{text}", "This repository has all its weights"
    widths = encoder.cond_dim if isinstance(encoder.cond_dim, int) else sum(encoder.cond_dim.values())
    if encoder.vlm is not None:
        of, at = config.vlm, encoder.vlm.architecture["revision"]
        assert of is not None
        revision = f" at revision {at}" if at else ""
        eyes = f"Images and words are read through layer {of.layer} of `{of.model}`{revision}{text}"
        eyes += f" (training: {of.train}, {of.torch_dtype})"
        kept = f"The weights of `{of.model}` are loaded from its own place. This repository has all others"
    needs = "lerobot" if encoder.vlm is None else "lerobot,vlm"
    return f"""
## A frozen action head

The head is `{conditioned.head.config.name}` ({config.head_mode}, from `{config.head}`), with the adapter
`{config.adapter}`. {eyes}. The condition has {widths} numbers. The action layout is `{policy.layout}`, and a chunk has
{config.horizon} time steps.

| part | frozen parameters | trained parameters |
|---|---:|---:|
{rows}
Install `action-heads[{needs}]` to use the policy. {kept}, including the frozen head's.

{CITATION}"""
