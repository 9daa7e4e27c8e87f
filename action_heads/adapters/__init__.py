"""Trainable adapters, which turn a condition into the modulation of a frozen head."""

from typing import Any

from action_heads._util.checks import described
from action_heads.adapters.adaln import AdaLN, AdaLNZero
from action_heads.adapters.adarmsnorm import AdaRMSNorm
from action_heads.adapters.additive import Additive
from action_heads.adapters.base import Adapter
from action_heads.adapters.config import ADAPTERS, AdapterConfig
from action_heads.adapters.cross_attention import CrossAttention
from action_heads.adapters.film import FiLM
from action_heads.adapters.prefix import PrefixTokens

MECHANISMS = (FiLM, Additive, AdaLN, AdaLNZero, AdaRMSNorm, CrossAttention, PrefixTokens)
ADAPTERS.update({adapter.name: adapter for adapter in MECHANISMS})


def check_adapter(adapter: Any) -> None:
    """Raise a ValueError if an adapter's name or class is given in place of an adapter object."""
    if isinstance(adapter, Adapter):
        return
    name = adapter if isinstance(adapter, str) else getattr(adapter, "name", "")
    wanted = ADAPTERS.get(name, ADAPTERS["adaln_zero"]).__name__
    raise ValueError(
        f"attach needs an adapter object, got {described(adapter)}. Pass {wanted}(cond_dim=...), with the width of "
        f"your encoder's output. action_heads.adapters has {', '.join(kind.__name__ for kind in ADAPTERS.values())}."
    )


__all__ = [
    "ADAPTERS",
    "AdaLN",
    "AdaLNZero",
    "AdaRMSNorm",
    "Adapter",
    "AdapterConfig",
    "Additive",
    "CrossAttention",
    "FiLM",
    "PrefixTokens",
    "check_adapter",
]
