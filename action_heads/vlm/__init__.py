"""Attach to a model of transformers: its hidden states as tokens for an adapter, live or cached on the disk.

    tap = Tap(AutoModelForImageTextToText.from_pretrained("HuggingFaceTB/SmolVLM2-500M-Video-Instruct"))
    policy = head.attach(AdaLNZero(cond_dim=tap.width, pool="attention"))
    tokens, mask = tap(**processor_inputs)

See docs/guides/attach-vlm.md, and docs/guides/replace-expert.md for policies that have an action expert already. Models come from you, so nothing
here imports transformers; LoRA needs the extra `vlm`.
"""

from action_heads.vlm.cache import Embeddings, embed
from action_heads.vlm.seams import prefix_tokens
from action_heads.vlm.tap import Tap

__all__ = ["Embeddings", "Tap", "embed", "prefix_tokens"]
