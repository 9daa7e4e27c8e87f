"""Trainable conditioning adapters: condition -> modulation. Imported as `action_heads.adapters`."""

from action_heads.adapters.adaln import AdaLNZero
from action_heads.adapters.adarmsnorm import AdaRMSNorm
from action_heads.adapters.base import Adapter
from action_heads.adapters.film import FiLM

ADAPTERS: dict[str, type[Adapter]] = {adapter.name: adapter for adapter in (FiLM, AdaLNZero, AdaRMSNorm)}

__all__ = ["ADAPTERS", "AdaLNZero", "AdaRMSNorm", "Adapter", "FiLM"]
