"""Trainable conditioning adapters: condition -> modulation. Imported as `action_heads.adapters`."""

from action_heads.adapters.adaln import AdaLN, AdaLNZero
from action_heads.adapters.adarmsnorm import AdaRMSNorm
from action_heads.adapters.additive import Additive
from action_heads.adapters.base import Adapter
from action_heads.adapters.film import FiLM

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.name: adapter for adapter in (FiLM, Additive, AdaLN, AdaLNZero, AdaRMSNorm)
}

__all__ = ["ADAPTERS", "AdaLN", "AdaLNZero", "AdaRMSNorm", "Adapter", "Additive", "FiLM"]
