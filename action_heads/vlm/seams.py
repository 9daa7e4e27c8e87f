"""What the action expert of LeRobot's SmolVLA, pi0 and pi0.5 reads, for an adapter to read in its place.

Axes: b batch, n tokens of the prefix (images, then words, then, in SmolVLA, the state), c width of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from action_heads._util.extras import require
from action_heads.vlm.inputs import check_finite
from action_heads.vlm.model import within
from action_heads.vlm.tap import Caught

WORDS = "observation.language.tokens", "observation.language.attention_mask"
STATE = "observation.state"


def prefix_tokens(policy: Any, batch: Mapping[str, Any], block: int = -1) -> tuple[Tensor, Tensor]:
    """What a block of the language model makes its keys and values of: tokens (b n c), and a mask (b n), true if valid.

    The experts of these policies read the language model's keys and values, block by block, and never its output. The
    input of the last block, normalised, is the last of what they read; the rest of that block does not run. Images,
    words, state, positions and attention are those of the policy's own `sample_actions`, in LeRobot 0.6.1.

    Gradients flow into whatever of the policy requires them: `policy.requires_grad_(False)` for none.

    Args:
        policy: a SmolVLAPolicy, PI0Policy or PI05Policy; its expert may be gone.
        batch: as the policy's preprocessor gives it.
        block: an index into the language model's blocks.
    """
    while (inner := within(policy)) is not policy:  # LeRobot may have put a LoRA into it
        policy = inner
    model = getattr(policy, "model", None)
    if hasattr(model, "vlm_with_expert"):
        blocks, run, mask = _smolvla(policy, batch)
    elif hasattr(model, "paligemma_with_expert"):
        blocks, run, mask = _pi(policy, batch)
    else:
        raise ValueError(
            f"got a {type(policy).__name__}, expected LeRobot's SmolVLAPolicy, PI0Policy or PI05Policy: "
            "docs/guides/replace-expert.md says how others are read"
        )
    if not -len(blocks) <= block < len(blocks):
        raise ValueError(f"block {block} of a language model of {len(blocks)}: choose from 0 to {len(blocks) - 1}")
    found: list[Tensor] = []

    def catch(module: Any, args: tuple, out: Any) -> None:
        found.append(out[0] if isinstance(out, tuple) else out)  # pi0's norms also return a gate
        raise Caught

    handle = blocks[block].input_layernorm.register_forward_hook(catch)
    try:
        with suppress(Caught):
            run()
    finally:
        handle.remove()
    if not torch.is_grad_enabled() or found[0].device.type == "cpu":  # training does not wait for an accelerator
        check_finite(f"block {block}", found[0], mask)
    return found[0], mask


def _smolvla(policy: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Tensor]:
    """The blocks, what runs them, and the mask. The state is the last token, through the policy's own projection."""
    tools = require("lerobot.policies.common.vla_utils", "lerobot")
    batch = policy._prepare_batch(
        {**batch, STATE: batch[STATE].clone()}
    )  # Aloha's conventions, in place, if configured
    images, state = policy.prepare_images(batch), policy.prepare_state(batch)
    model = policy.model
    embedded, mask, causal = model.embed_prefix(*images, *(batch[key] for key in WORDS), state=state)

    def run() -> None:
        model.vlm_with_expert.forward(
            attention_mask=tools.make_att_2d_masks(mask, causal),
            position_ids=mask.cumsum(1) - 1,
            inputs_embeds=[embedded, None],
            use_cache=True,  # without a cache, this call fails in LeRobot's default attention mode
        )

    return model.vlm_with_expert.vlm.model.text_model.layers, run, mask


def _pi(policy: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Tensor]:
    """The same of pi0, whose state goes to the expert alone, and of pi0.5, whose words say the state."""
    tools = require("lerobot.policies.common.vla_utils", "lerobot")
    model = policy.model
    embedded, mask, causal = model.embed_prefix(*policy._preprocess_images(batch), *(batch[key] for key in WORDS))
    language = model.paligemma_with_expert.paligemma.model.language_model
    language.config._attn_implementation = "eager"  # as LeRobot does before every chunk, for the masks' form

    def run() -> None:
        model.paligemma_with_expert.forward(
            attention_mask=tools.prepare_attention_masks_4d(tools.make_att_2d_masks(mask, causal)),
            position_ids=mask.cumsum(1) - 1,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )

    return language.layers, run, mask
