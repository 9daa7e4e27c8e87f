"""Trainable conditioning adapters: condition -> modulation. Imported as `action_heads.adapters`."""

from action_heads.adapters.adaln import AdaLN, AdaLNZero
from action_heads.adapters.adarmsnorm import AdaRMSNorm
from action_heads.adapters.additive import Additive
from action_heads.adapters.base import Adapter
from action_heads.adapters.cross_attention import CrossAttention
from action_heads.adapters.film import FiLM
from action_heads.adapters.prefix import PrefixTokens

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.name: adapter for adapter in (FiLM, Additive, AdaLN, AdaLNZero, AdaRMSNorm, CrossAttention, PrefixTokens)
}

__all__ = [
    "ADAPTERS",
    "AdaLN",
    "AdaLNZero",
    "AdaRMSNorm",
    "Adapter",
    "Additive",
    "CrossAttention",
    "FiLM",
    "PrefixTokens",
]
