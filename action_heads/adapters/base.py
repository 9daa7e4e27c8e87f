"""The base class of adapters: read a condition, then map it to the modulation of all sites, starting at zero.

Axes: b batch, h horizon, n tokens, c condition, w width, u hidden units, p modulation values of one site, P modulation
values of all sites, r code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from action_heads._util.checks import check_condition
from action_heads._util.conditions import Condition, Mask
from action_heads._util.limits import CONDITION, check_width, whole
from action_heads.adapters.condition_reader import POOLS, Read, ReadAll, Standardizer, Standardizers, for_sources
from action_heads.adapters.config import AdapterConfig


@dataclass(frozen=True)
class Site:
    """A layer of a backbone that takes modulation: a residual branch."""

    width: int  # of the branch's input and output
    hidden: int  # hidden units of the branch
    attends: bool = False  # whether the branch is self-attention


# The places in a branch where modulation values act, and the attribute of `Site` that gives their number.
SLOTS = {
    "enter_scale": "width",
    "enter_shift": "width",
    "hidden_scale": "hidden",
    "hidden_shift": "hidden",
    "gate": "width",
}


class Modulation:
    """The modulation of one site. This class is the identity; each mechanism overrides the methods that it needs."""

    def __init__(self, values: Tensor):
        """Take the values of one site (b, 1 or h, p), which are the same or different for each time step."""

    def enter(self, x: Tensor) -> Tensor:
        """Modulate the branch's input (b h w)."""
        return x

    def hidden(self, y: Tensor) -> Tensor:
        """Modulate the activated hidden units (b h u)."""
        return y

    def leave(self, y: Tensor) -> Tensor:
        """Modulate the branch's output (b h w), before it is added to the residual stream."""
        return y

    def normalize(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Normalise the residual stream (b h w)."""
        return norm(x)

    def prepend(self, x: Tensor) -> Tensor:
        """Put tokens before the embedded chunk, (b h w) -> (b, n + h, w), in backbones with self-attention."""
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Add cross-attention to the residual stream (b h w), after self-attention."""
        return x


class Adapter(nn.Module):
    """A small trainable network that turns a condition into the modulation of a frozen head.

    Use a subclass, such as `AdaLNZero`, and attach it with `ActionHead.attach`. The condition is read once, at the
    width w of the head (c -> w -> w), so a 2048-d embedding costs 0.6M parameters instead of one large map for each
    block. From there the adapter outputs the motion code, which Stage 1 taught the head to follow, or the modulation of
    every block, or both. Both start at zero, so a head with a fresh adapter samples unconditional chunks.

    Args:
        cond_dim: width c of the condition, which is a vector (b c), or tokens (b n c) that are pooled. For several
            sources, a dict of widths such as {"tokens": 960, "state": 8}; conditions and masks are then dicts too.
        hidden_dim: width of the network that reads the condition; the head's width if None.
        relearn_step: also train a copy of the head's step modulation. In the paper's recipe only the backbone and its
            step embedding are frozen.
        through: path of the adapter: "code" (the fewest parameters), "blocks" (as in the paper) or "both". If None,
            "both", or "blocks" for a head without a code.
        pool: pooling of tokens: "mean", "last" (the last valid token) or "attention" (by four learned queries).
        per_step: give every time step of the chunk its own code, so that a chunk need not be one of the motions of
            Stage 1. A backbone that mixes time has never seen chunks whose codes differ.

    Raises:
        ValueError: an argument is invalid.

    Examples:
        >>> from action_heads.adapters import FiLM
        >>> FiLM(cond_dim=512, through="code")
        FiLM(
          mechanism=film, cond_dim=512, through=code, pool=mean
          (standard): Standardizer()
        )
        >>> FiLM(cond_dim={"tokens": 960, "state": 8}, pool="attention").config.cond_dim
        {'state': 8, 'tokens': 960}
    """

    name: ClassVar[str]
    modulation: ClassVar[type[Modulation]]
    # Whether the time steps of a chunk can have different values, as is needed if their noise levels differ.
    per_position: ClassVar[bool] = True
    # The values of a site in their order, as keys of `SLOTS`. Empty if the values are something else, such as tokens.
    slots: ClassVar[tuple[str, ...]] = ()
    rms: ClassVar[bool] = False  # whether blocks use root-mean-square norms instead of layer norms
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
        if isinstance(cond_dim, Mapping):
            cond_dim = {name: whole(width) for name, width in cond_dim.items()}
        else:
            cond_dim = whole(cond_dim)
            check_width("cond_dim", cond_dim, CONDITION)
        self.config = AdapterConfig(self.name, cond_dim, hidden_dim, relearn_step, through, pool, per_step)
        self.step: nn.Module | None = None  # a trainable copy of the head's modulation, with `relearn_step`
        with torch.device("cpu"):  # `attach` moves it to the head; a surrounding `torch.device("meta")` would lose it.
            self.standard = for_sources(self.config.cond_dim, Standardizer, Standardizers)

    @classmethod
    def sizes(cls, sites: Sequence[Site]) -> list[int]:
        """Return the number of values of each site, whose sum is P."""
        return [sum(getattr(site, SLOTS[slot]) for slot in cls.slots) for site in sites]

    @classmethod
    def offsets(cls, site: Site) -> tuple[int, dict[str, int]]:
        """Return the number of values of a site, and the place of each of `SLOTS` among them, -1 if it has none."""
        offset, places = 0, dict.fromkeys(SLOTS, -1)
        for slot in cls.slots:
            places[slot] = offset
            offset += getattr(site, SLOTS[slot])
        return offset, places

    @classmethod
    def layers(cls, sites: Sequence[Site]) -> nn.ModuleList | None:
        """Return the layers that a head needs besides to use the values; Stage 1 trains them. None for most."""
        return None

    @classmethod
    def modulations(
        cls, values: Tensor, sites: Sequence[Site], layers: nn.ModuleList | None = None
    ) -> list[Modulation]:
        """Divide values (b, 1 or h, P) into the modulation of every site; `layers` are the head's, trained."""
        return [cls.modulation(part) for part in values.split(cls.sizes(sites), dim=-1)]

    def build(self, width: int, values: int, code: int | None = None, horizon: int | None = None) -> None:
        """Create the parameters for a head. `ActionHead.attach` calls this.

        Args:
            width: the head's width w.
            values: number P of modulation values.
            code: dimensions of the head's code; None if it has none.
            horizon: time steps of a chunk; None if they cannot be modulated differently.

        Raises:
            ValueError: the head does not have what the adapter's settings need.
        """
        through = self.config.through or ("both" if code else "blocks")
        if through != "blocks" and not code:
            raise ValueError(
                f"through={through!r} needs a head with a code, but this head was pretrained without one. Use "
                "through='blocks', or a head that was pretrained with --signal code."
            )
        if self.config.per_step and (through == "blocks" or not horizon):
            raise ValueError(
                f"per_step=True does not work here, with through={through!r}. It needs through='code' or 'both', a "
                "backbone other than unet, and a mechanism without tokens."
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
        """Standardise conditions from now on by the statistics of these; for raw states or unscaled embeddings.

        Call it before training, with the conditions of the training data. The statistics are saved with the adapter.

        Args:
            cond: conditions (n c), or tokens (n m c). For several sources a dict; sources left out stay unscaled.
            mask: (n m), true where a token counts; for several sources a dict.

        Raises:
            ValueError: a condition or mask has another shape than the adapter expects, or invalid values.

        Examples:
            >>> import torch
            >>> from action_heads.adapters import FiLM
            >>> adapter = FiLM(cond_dim=7)
            >>> adapter.standardize(40 + 3 * torch.randn(1000, 7))  # joint angles in degrees, for example
            >>> adapter.standard.mean.round(decimals=-1)
            tensor([40., 40., 40., 40., 40., 40., 40.])
        """
        sources = self.config.cond_dim
        if isinstance(sources, Mapping) and isinstance(cond, Mapping):
            sources = {name: width for name, width in sources.items() if name in cond} or sources
        check_condition(cond, mask, sources, values=True)
        self.standard.fit(cond, mask)  # type: ignore[operator]

    def forward(self, cond: Condition, mask: Mask = None, steer: Steer | None = None) -> Tensor:
        """Compute the modulation (b, 1 or h, P) from a condition.

        Args:
            cond: (b c), or tokens (b n c); a dict for several sources.
            mask: (b n), true where a token counts; a dict for several sources.
            steer: the head's map from codes (b, 1 or h, r) to modulation.
        """
        features = self.read(self.pool(self.standard(cond), mask))
        if self.aim is None:
            assert self.generate is not None, "an adapter has a path through the code or through the blocks"
            return self.generate(features).unsqueeze(1)
        values = 0 if self.generate is None else self.generate(features).unsqueeze(1)
        assert steer is not None, "a path through the code needs the head's map from codes"
        return values + steer(rearrange(self.aim(features), "b (h r) -> b h r", h=self.codes))

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in vars(self.config).items() if value)


Steer = Callable[[Tensor], Tensor]


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear map whose weights and bias are zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
