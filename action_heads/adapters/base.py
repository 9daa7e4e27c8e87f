"""What every adapter shares: reading a condition, and one zero-initialised map to the modulation of all sites.

Axes: b batch, h horizon, n tokens, c condition, w width, u hidden units, p modulation values of one site, P of all,
r code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn

from action_heads._util.checks import check_condition
from action_heads._util.conditions import Condition, Mask
from action_heads._util.limits import CONDITION, check_width
from action_heads.adapters.condition_reader import POOLS, Read, ReadAll, Standardizer, Standardizers, for_sources
from action_heads.adapters.config import AdapterConfig


@dataclass(frozen=True)
class Site:
    """A residual branch of a backbone, where modulation acts: width of what enters, and hidden units within."""

    width: int
    hidden: int
    attends: bool = False  # whether it is self-attention


# Where modulation values act in a branch of two maps, and which width of its site says how many there are.
SLOTS = {
    "enter_scale": "width",
    "enter_shift": "width",
    "hidden_scale": "hidden",
    "hidden_shift": "hidden",
    "gate": "width",
}


class Modulation:
    """How one site is modulated. The identity here; each mechanism overrides what it touches."""

    def __init__(self, values: Tensor):
        """Values (b, 1 or h, p): what the mechanism needs for one site, the same or different for each step."""

    def enter(self, x: Tensor) -> Tensor:
        """Acts on the branch's input (b h w)."""
        return x

    def hidden(self, y: Tensor) -> Tensor:
        """Acts on the activated hidden units (b h u)."""
        return y

    def leave(self, y: Tensor) -> Tensor:
        """Acts on the branch before it joins the residual stream (b h w)."""
        return y

    def normalize(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Normalises the residual stream (b h w)."""
        return norm(x)

    def prepend(self, x: Tensor) -> Tensor:
        """Puts tokens before the embedded chunk (b h w) -> (b, n + h, w). For backbones that attend, as the next."""
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Adds to the residual stream (b h w) after self-attention what else is attended to."""
        return x


class Adapter(nn.Module):
    """A small trainable network from a condition to the modulation of a frozen backbone.

    The condition is read once, at the width of the head (c -> w -> w), so that a 2048-d embedding costs 0.6M
    parameters rather than one map a block. From there it acts through the head's code of motion, a few dimensions
    which Stage 1 taught the head to follow, or through a map of its own to the modulation of every block, or both.
    Each starts at zero: a fresh adapter is the pretrained unconditional head.

    Args:
        cond_dim: width c of the condition: a vector (b, c), or tokens (b, n, c), which are pooled. Or widths by name,
            such as {"tokens": 960, "state": 8}: conditions and masks then come by these names.
        hidden_dim: width of the reading network; the head's own width if not given.
        relearn_step: also train the head's own modulation, starting from what it is. This is the paper's recipe, in
            which only backbone and step embedding stay frozen.
        through: "code" (the smallest adapters), "blocks" (as in the paper), or "both"; if not given, all the head has.
        pool: what is read of tokens: their "mean", the "last" valid one, or "attention" by four learned queries.
        per_step: aim at a code for every step of the chunk, rather than one for all. A chunk then need not be one
            motion of those that Stage 1 saw; a backbone that mixes time has seen none with codes that differ.
    """

    name: ClassVar[str]
    modulation: ClassVar[type[Modulation]]
    # Whether each step of a chunk may have values of its own, as noise levels that differ within a chunk ask for.
    per_position: ClassVar[bool] = True
    # What the values of a site are, in their order: keys of `SLOTS`. None if they are something else, such as tokens.
    slots: ClassVar[tuple[str, ...]] = ()
    rms: ClassVar[bool] = False  # whether blocks normalise by the root mean square in place of the variance
    is_built = False

    def __init__(
        self,
        cond_dim: int | Mapping[str, int],
        *,
        hidden_dim: int | None = None,
        relearn_step: bool = False,
        through: str | None = None,
        pool: str = "mean",
        per_step: bool = False,
    ):
        super().__init__()
        if not isinstance(cond_dim, Mapping):
            check_width("cond_dim", cond_dim, CONDITION)
        self.config = AdapterConfig(self.name, cond_dim, hidden_dim, relearn_step, through, pool, per_step)
        self.step: nn.Module | None = None  # the relearned modulation of the head, if any
        self.standard = for_sources(self.config.cond_dim, Standardizer, Standardizers)

    @classmethod
    def sizes(cls, sites: Sequence[Site]) -> list[int]:
        """How the P values of all sites are divided."""
        return [sum(getattr(site, SLOTS[slot]) for slot in cls.slots) for site in sites]

    @classmethod
    def layers(cls, sites: Sequence[Site]) -> nn.ModuleList | None:
        """What else a head must learn in Stage 1 to read the values, if anything. It belongs to the head."""
        return None

    @classmethod
    def modulations(
        cls, values: Tensor, sites: Sequence[Site], layers: nn.ModuleList | None = None
    ) -> list[Modulation]:
        """Values (b, 1 or h, P), and what `layers` made, trained -> the modulation of every site."""
        return [cls.modulation(part) for part in values.split(cls.sizes(sites), dim=-1)]

    def build(self, width: int, values: int, code: int | None = None, horizon: int | None = None) -> None:
        """Create the parameters, for a head of some width, P values, a code of so many dimensions, or none.

        The horizon is that of chunks whose steps may differ in their modulation; none if they may not.
        `ActionHead.attach` calls this.
        """
        through = self.config.through or ("both" if code else "blocks")
        if through != "blocks" and not code:
            raise ValueError(
                f"this head was pretrained without a code, so an adapter can't act through {through!r}: use "
                "through='blocks', or a head that was pretrained with --signal code"
            )
        if self.config.per_step and (through == "blocks" or not horizon):
            raise ValueError(
                "per_step aims at a code for every step of a chunk: it needs a path through the code, a backbone that "
                f"modulates steps apart (not unet) and a mechanism that does (no tokens); here through={through!r}"
            )
        self.config = replace(self.config, through=through)
        width = self.config.hidden_dim or width
        sources = self.config.cond_dim
        self.pool = for_sources(sources, POOLS[self.config.pool])
        first = for_sources(sources, lambda c: Read(c, width), ReadAll)
        self.read = nn.Sequential(first, nn.Mish(), nn.Linear(width, width), nn.Mish())
        self.codes = horizon if self.config.per_step and horizon else 1
        self.aim = None if through == "blocks" else zero_linear(width, self.codes * (code or 0))
        self.generate = None if through == "code" else zero_linear(width, values)
        self.is_built = True

    def standardize(self, cond: Condition, mask: Mask = None) -> None:
        """Take the statistics of conditions, so that raw robot states or unscaled embeddings may be passed in.

        Args as in `forward`: (n, c), or tokens (n, m, c) with a mask (n, m); of several sources those to standardise.
        """
        sources = self.config.cond_dim
        if isinstance(sources, Mapping) and isinstance(cond, Mapping):
            sources = {name: width for name, width in sources.items() if name in cond} or sources
        check_condition(cond, mask, sources, values=True)
        self.standard.fit(cond, mask)  # type: ignore[operator]

    def forward(self, cond: Condition, mask: Mask = None, steer: Steer | None = None) -> Tensor:
        """Condition (b, c), or tokens (b, n, c) with mask (b, n) true where valid -> modulation (b, 1 or h, P).

        Several conditions come by name, and so do their masks. `steer` is the head's map from codes (b, 1 or h, r) to
        modulation.
        """
        features = self.read(self.pool(self.standard(cond), mask))
        if self.aim is None:
            assert self.generate is not None, "an adapter that does not aim generates"
            return self.generate(features).unsqueeze(1)
        values = 0 if self.generate is None else self.generate(features).unsqueeze(1)
        assert steer is not None, "an adapter that aims needs the head's map from codes"
        return values + steer(rearrange(self.aim(features), "b (h r) -> b h r", h=self.codes))

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in vars(self.config).items() if value)


Steer = Callable[[Tensor], Tensor]


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A map that starts as zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
