"""`AdapterConfig`: what an adapter is made of, before the width of its condition is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from action_heads.adapters import ADAPTERS, Adapter


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of an adapter, as of `Adapter`; `mechanism` is a name of `ADAPTERS`."""

    mechanism: str
    hidden_dim: int | None = None
    relearn_step: bool = False
    through: str | None = None
    pool: str = "mean"
    per_step: bool = False

    def make(self, cond_dim: int | Mapping[str, int]) -> Adapter:
        """Make the adapter for a condition of some width."""
        options = {name: value for name, value in vars(self).items() if name != "mechanism"}
        return ADAPTERS[self.mechanism](cond_dim, **options)
