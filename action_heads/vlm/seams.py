"""Access to the tokens that the action experts of LeRobot's SmolVLA, pi0 and pi0.5 read, for an adapter.

Axes: b batch, n tokens of the prefix (images, then words, then, in SmolVLA, the state), c width of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from action_heads._util.extras import require
from action_heads.vlm.catch import catching
from action_heads.vlm.inputs import check_finite
from action_heads.vlm.model import within

WORDS = "observation.language.tokens", "observation.language.attention_mask"
STATE = "observation.state"


def prefix_tokens(policy: Any, batch: Mapping[str, Any], block: int = -1) -> tuple[Tensor, Tensor]:
    """Return the tokens from which a block of the language model computes its keys and values.

    The experts of these policies read the keys and values of every block, and never the output of the language model.
    By default, this returns the normalised input of the last block, the last tokens that an expert reads. The rest of
    that block does not run. Images, words, state, positions and attention masks are those of the policy's own
    `sample_actions`, in LeRobot 0.6.1.

    Gradients flow into all parameters of the policy that require them. `policy.requires_grad_(False)` prevents this.

    Args:
        policy: a SmolVLAPolicy, PI0Policy or PI05Policy. Its expert may have been removed.
        batch: the output of the policy's preprocessor.
        block: index of a block of the language model.

    Returns:
        Tokens (b n c), and a mask (b n) that is true where a token is valid.

    Raises:
        ImportError: LeRobot is not installed.
        ValueError: the policy is of another class, the block does not exist, or the tokens are not finite.
    """
    while (inner := within(policy)) is not policy:  # LeRobot may have added a LoRA.
        policy = inner
    model = getattr(policy, "model", None)
    if hasattr(model, "vlm_with_expert"):
        blocks, run, mask = _smolvla(policy, batch)
    elif hasattr(model, "paligemma_with_expert"):
        blocks, run, mask = _pi(policy, batch)
    else:
        raise ValueError(
            f"got a {type(policy).__name__}; expected LeRobot's SmolVLAPolicy, PI0Policy or PI05Policy. For other "
            "policies, see docs/guides/replace-expert.md."
        )
    if not -len(blocks) <= block < len(blocks):
        raise ValueError(f"block {block} does not exist; this language model has blocks 0 to {len(blocks) - 1}")
    with catching({"tokens": (blocks[block].input_layernorm, "output")}) as caught:
        run()
    tokens = caught["tokens"]  # The norms of pi0 also return a gate, which is left out.
    if not torch.is_grad_enabled() or tokens.device.type == "cpu":  # Training must not wait for an accelerator.
        check_finite(f"block {block}", tokens, mask)
    return tokens, mask


def _smolvla(policy: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Tensor]:
    """Return the blocks, a function that runs them, and the mask. The last token is the projected state."""
    tools = require("lerobot.policies.common.vla_utils", "lerobot")
    # If so configured, this converts the state to the conventions of Aloha, in place.
    batch = policy._prepare_batch({**batch, STATE: batch[STATE].clone()})
    images, state = policy.prepare_images(batch), policy.prepare_state(batch)
    model = policy.model
    embedded, mask, causal = model.embed_prefix(*images, *(batch[key] for key in WORDS), state=state)

    def run() -> None:
        model.vlm_with_expert.forward(
            attention_mask=tools.make_att_2d_masks(mask, causal),
            position_ids=mask.cumsum(1) - 1,
            inputs_embeds=[embedded, None],
            use_cache=True,  # Without a cache, this call fails in LeRobot's default attention mode.
        )

    return model.vlm_with_expert.vlm.model.text_model.layers, run, mask


def _pi(policy: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Tensor]:
    """Return the same for pi0, where only the expert gets the state, and pi0.5, whose words contain the state."""
    tools = require("lerobot.policies.common.vla_utils", "lerobot")
    model = policy.model
    embedded, mask, causal = model.embed_prefix(*policy._preprocess_images(batch), *(batch[key] for key in WORDS))
    language = model.paligemma_with_expert.paligemma.model.language_model
    language.config._attn_implementation = "eager"  # LeRobot sets this before every chunk; the masks need it.

    def run() -> None:
        model.paligemma_with_expert.forward(
            attention_mask=tools.prepare_attention_masks_4d(tools.make_att_2d_masks(mask, causal)),
            position_ids=mask.cumsum(1) - 1,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )

    return language.layers, run, mask
