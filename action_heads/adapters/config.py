"""The configuration of an adapter, and the table of mechanisms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from torch import nn

from action_heads._util import limits
from action_heads._util.flags import Shown, about, check_choices
from action_heads._util.limits import check_choice, check_fields, check_parameters, check_width, shown
from action_heads.adapters.condition_reader import POOLS

if TYPE_CHECKING:
    from action_heads.adapters.base import Adapter

THROUGH = ("code", "blocks", "both")
ADAPTERS: dict[str, type[Adapter]] = {}  # The mechanisms by name. The package's __init__ fills it.


def differing(one: AdapterConfig, other: AdapterConfig) -> str:
    """Return the settings that differ, with both values, such as "pool='mean', which is 'attention'"."""
    ours, theirs = asdict(one), asdict(other)
    differ = [name for name in ours if ours[name] != theirs[name]]
    return " and ".join(f"{name}={ours[name]!r}, which is {theirs[name]!r}" for name in differ)


@dataclass(frozen=True)
class AdapterConfig:
    """Settings of an adapter, which are saved with its weights.

    Attributes:
        mechanism: film, adaln_zero, adarmsnorm, or another mechanism that the head was pretrained for.
        cond_dim: width of the condition, or widths by source; 0 in settings that do not know it yet.
        hidden_dim: width of the network that reads the condition.
        relearn_step: also train the head's own step modulation, as in the paper.
        through: path of the adapter: code, blocks or both.
        pool: pooling of tokens: mean, last or attention.
        per_step: give every time step of the chunk its own code.
    """

    mechanism: str
    cond_dim: int | Mapping[str, int] = 0
    hidden_dim: Annotated[int | None, Shown("the head's width", "INT")] = None
    relearn_step: bool = False
    through: Annotated[str | None, Shown("all that the head has")] = None
    pool: str = "mean"
    per_step: bool = False

    def __post_init__(self):
        if self.through is not None and not (isinstance(self.through, str) and self.through in THROUGH):
            given = shown(self.through)
            with about("through"):
                raise ValueError(f"unknown path {given} for through; choose one of {', '.join(map(repr, THROUGH))}")
        check_choice("pool", self.pool, POOLS)
        if isinstance(self.cond_dim, Mapping):
            for name, width in self.cond_dim.items():
                if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
                    given = shown(name)
                    raise ValueError(
                        f"a source of cond_dim cannot be called {given}: the name must be a string without dots that "
                        "is not an attribute of torch.nn.ModuleDict"
                    )
                check_width(f"cond_dim[{name!r}]", width, limits.CONDITION)
            # Sources are sorted, because the order of a sum of floats changes its last bits.
            object.__setattr__(self, "cond_dim", dict(sorted(self.cond_dim.items())))
            if not self.cond_dim:
                raise ValueError("cond_dim is an empty dict; pass the width of each source by name, or one integer")
            check_width("the number of sources in cond_dim", len(self.cond_dim), limits.SOURCES)
        elif self.cond_dim != 0:
            check_width("cond_dim", self.cond_dim, limits.CONDITION)
        with about("hidden_dim"):
            if self.hidden_dim is not None:
                check_width("hidden_dim", self.hidden_dim, limits.WIDTH)
            check_fields(vars(self), AdapterConfig, "the adapter's config")
            condition = sum(self.cond_dim.values()) if isinstance(self.cond_dim, Mapping) else self.cond_dim
            hidden = self.hidden_dim or 1
            check_parameters("this adapter", condition * hidden + hidden**2)
        if self.cond_dim == 0:  # The mechanism of an adapter that exists may be a user's own class.
            check_choices(self, mechanism=ADAPTERS)

    def make(self, cond_dim: int | Mapping[str, int]) -> Adapter:
        """Return a new adapter for a condition of width `cond_dim`, to be attached to a head."""
        check_choices(self, mechanism=ADAPTERS)
        options = {name: value for name, value in vars(self).items() if name not in ("mechanism", "cond_dim")}
        return ADAPTERS[self.mechanism](cond_dim, **options)
