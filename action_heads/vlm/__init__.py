"""Taps on transformers models, whose hidden states become tokens for an adapter, live or cached on disk.

    tap = Tap(AutoModelForImageTextToText.from_pretrained("HuggingFaceTB/SmolVLM2-500M-Video-Instruct"))
    policy = head.attach(AdaLNZero(cond_dim=tap.width, pool="attention"))
    tokens, mask = tap(**processor_inputs)

See docs/guides/attach-vlm.md, and docs/guides/replace-expert.md for policies that already have an action expert. You
load the model, so this package does not import transformers. LoRA needs the extra `vlm`.
"""

from action_heads.vlm.cache import Embeddings, embed
from action_heads.vlm.seams import prefix_tokens
from action_heads.vlm.stale import earlier_rows
from action_heads.vlm.tap import Tap

__all__ = ["Embeddings", "Tap", "earlier_rows", "embed", "prefix_tokens"]
