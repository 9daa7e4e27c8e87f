"""The loss of Stage 1: denoise chunks without an observation, under the step modulation of one mechanism.

Axes: b batch, h horizon, a action, P modulation values of all sites.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from action_heads.adapters import ADAPTERS
from action_heads.diffusion.continuing import takes_levels_per_step
from action_heads.head import ActionHead
from action_heads.pretrain.code import CodeEncoder

SIGNALS = ("code", "joints", "pose", "none")
DROPOUT = 0.3  # share of chunks shown without their signal: what a fresh adapter starts from


def signal_readers(head: ActionHead, kind: str, width: int) -> nn.ModuleDict | None:
    """The throw-away networks that read a signal of `width` values: only the head is kept.

    `code` learns a few dimensions that say what a chunk does, and the head's own map from them to modulation, which
    is kept: an adapter will aim with it. `joints` and `pose` are the paper's (section IV-D), one adapter a mechanism:
    their use is only that the backbone learns to be steered.
    """
    if kind == "none":
        return None
    if kind == "code":
        return nn.ModuleDict({"code": CodeEncoder(width, head.config.rank, head.config.width)})
    readers = {name: ADAPTERS[name](width, through="blocks") for name in head.config.mechanisms}
    for name, reader in readers.items():
        reader.build(head.config.width, head.modulation_of(name).values)
    return nn.ModuleDict(readers)


def read_signal(
    head: ActionHead, readers: nn.ModuleDict, signal: Tensor, mechanism: str, generator: torch.Generator
) -> Tensor:
    """Signal (b, c) -> modulation (b, 1, P), none at all for a share of the chunks."""
    shown = torch.rand((len(signal), 1, 1), generator=generator) > DROPOUT
    if "code" in readers:
        return head.modulation_of(mechanism).steer(readers["code"](signal, generator)[:, None]) * shown
    return readers[mechanism](signal) * shown


def noise_levels(
    head: ActionHead,
    batch: int,
    mixed: bool,
    generator: torch.Generator,
    levels: str = "uniform",
    per_step: bool = True,
) -> tuple[Tensor, Tensor]:
    """Noise levels t (b, 1 or h) and which steps are given clean (b, 1 or h).

    One level a chunk, or, `mixed`, for a backbone that mixes time, a clean prefix of random length, and behind it a
    level of its own for each step of half of the chunks: what continuing a committed prefix (real-time chunking) asks
    for. Where steps can't differ in level (not `per_step`), all have one, and the prefix is clean in its values alone.
    """
    h = head.config.horizon
    if not (mixed and per_step):
        t = head.objective.random_steps((batch, 1), generator, levels)
        if not mixed:
            return t, torch.zeros_like(t, dtype=torch.bool)
        return t, torch.arange(h) < torch.randint(h, (batch, 1), generator=generator)
    own = torch.rand((batch, 1), generator=generator) < 0.5
    shared, each = (head.objective.random_steps((batch, n), generator, levels) for n in (1, h))
    prefix = torch.randint(h, (batch, 1), generator=generator)
    clean = torch.arange(h) < prefix
    return torch.where(own, each, shared).masked_fill(clean, 0), clean


def loss(
    head: ActionHead,
    readers: nn.ModuleDict | None,
    x0: Tensor,
    signal: Tensor | None,
    mechanism: str,
    generator: torch.Generator,
    mixed: bool = False,
    levels: str = "uniform",
) -> Tensor:
    """Mean squared error (scalar) of the prediction for normalised chunks x0 (b h a) with their signal (b c)."""
    modulation = head.modulation_of(mechanism)
    t, clean = noise_levels(head, len(x0), mixed, generator, levels, takes_levels_per_step(head, modulation))
    noise = torch.randn(x0.shape, generator=generator)
    x_t = torch.where(clean[..., None], x0, head.objective.add_noise(x0, noise, t))
    values = head.step_values(modulation, t)
    if readers is not None and signal is not None:
        values = values + read_signal(head, readers, signal, mechanism, generator)
    output = head.predict(x_t, values, modulation)
    error = (output - head.objective.target(x0, noise, t)).square().mean(-1)
    return error.masked_fill(clean, 0).sum() / (~clean).expand_as(error).sum()
