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
    eyes, kept = f"cameras by `{config.vision.backbone}`{text}", "all weights are in this repository"
    if encoder.vlm is not None:
        of, at = config.vlm, encoder.vlm.architecture["revision"]
        assert of is not None
        eyes = f"images and words by layer {of.layer} of `{of.model}`" + (f" at {at}" if at else "") + text
        eyes += f" (training: {of.train}, {of.torch_dtype})"
        kept = f"`{of.model}` is loaded from its own folder or repository. All other weights are in this repository"
    needs = "lerobot" if encoder.vlm is None else "lerobot,vlm"
    return f"""
## A frozen action head

`{conditioned.head.config.name}` ({config.head_mode}, from `{config.head}`), steered by
`{config.adapter}`; {eyes}; condition of {encoder.cond_dim} numbers.
Actions: `{policy.layout}`, chunks of {config.horizon} steps.

| part | frozen parameters | trained parameters |
|---|---:|---:|
{rows}
It needs `pip install action-heads[{needs}]`; {kept}, those of the frozen head too.

{CITATION}"""
