"""The loss of Stage 1: denoise chunks without observations, with the step modulation of one mechanism at a time.

Axes: b batch, h horizon, a action, c signal, r rank, P modulation values of all sites.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from action_heads.adapters import AdapterConfig
from action_heads.diffusion import draws
from action_heads.diffusion.continuing import random_lengths, takes_levels_per_step
from action_heads.diffusion.loss import Noise, denoising_loss
from action_heads.head import ActionHead
from action_heads.pretrain.batches import Batch

SIGNALS = ("code", "joints", "pose", "none")
DROPOUT = 0.3  # share of chunks without their signal, since a fresh adapter starts without one
CODE_NOISE = 0.3  # largest standard deviation relative to that of the code; drawn uniformly for each chunk


class Stage1(nn.Module):
    """All that trains in Stage 1: the head, and networks that read the signal and are discarded afterwards."""

    def __init__(self, head: ActionHead, signal: str, width: int, levels: str):
        super().__init__()
        self.head = head
        self.levels = levels
        self.readers = signal_readers(head, signal, width)

    def variant(self, step: int) -> tuple[str, bool]:
        """Return the mechanism of a training step, and whether chunks have clean prefixes in it. Both alternate."""
        mechanisms = self.head.config.mechanisms
        mixed = self.head.backbone.mixes_time and step // len(mechanisms) % 2 == 1
        return mechanisms[step % len(mechanisms)], mixed

    def forward(self, batch: Batch, variant: tuple[str, bool], noise: torch.Generator) -> Tensor:
        """Return the loss (scalar) of a batch for a mechanism, with clean prefixes or without."""
        mechanism, mixed = variant
        return loss(self.head, self.readers, batch.x0, batch.signal, mechanism, noise, mixed, self.levels)


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
    """Return the mean squared error (scalar) of predictions for normalised chunks x0 (b h a) with a signal (b c)."""
    modulation = head.modulation_of(mechanism)
    t, clean = noise_levels(head, len(x0), mixed, generator, levels, takes_levels_per_step(head, modulation))
    noise = Noise(t, head.objective.random_noise(x0.shape, generator, x0.device), clean)
    values = head.step_values(modulation, t)
    if readers is not None and signal is not None:
        values = values + read_signal(head, readers, signal, mechanism, generator)
    return denoising_loss(head, x0, noise, values, modulation)


def noise_levels(
    head: ActionHead,
    batch: int,
    mixed: bool,
    generator: torch.Generator,
    levels: str,
    per_step: bool,
) -> tuple[Tensor, Tensor]:
    """Return noise levels t (b, 1 or h) and a mask (b, 1 or h) of the time steps that are given clean.

    Each chunk has one level. If `mixed`, for a backbone that mixes time steps, it also has a clean prefix of random
    length, and half of the chunks have a separate level at each time step after it. This prepares for continuing a
    committed prefix (real-time chunking). If time steps cannot differ in level (not `per_step`), all of them have the
    level of the chunk, and only the values of the prefix are clean.
    """
    per_step = mixed and per_step
    own = draws.uniform((batch, 1), generator, generator.device) < 0.5 if per_step else None
    t = head.objective.random_steps((batch, 1), generator, levels, head.device)
    if not mixed:
        return t, torch.zeros_like(t, dtype=torch.bool)
    if own is None:
        return t, random_lengths(head, batch, generator)
    each = head.objective.random_steps((batch, head.config.horizon), generator, levels, head.device)
    clean = random_lengths(head, batch, generator)
    return torch.where(own.to(t.device), each, t).masked_fill(clean, 0), clean


class CodeEncoder(nn.Module):
    """A network that maps a normalised chunk (b, h·a) to its motion code (b r), which has unit mean square.

    Adapters will later direct the head by such codes. Noise on the code makes similar codes mean similar motions, so
    that a small adapter, which cannot produce a code exactly, still gets the right motion.
    """

    def __init__(self, inputs: int, rank: int, width: int):
        super().__init__()
        self.rank = rank
        self.net = nn.Sequential(
            nn.Linear(inputs, width), nn.Mish(), nn.Linear(width, width), nn.Mish(), nn.Linear(width, rank)
        )

    def forward(self, chunk: Tensor, generator: torch.Generator) -> Tensor:
        code = nn.functional.rms_norm(self.net(chunk), (self.rank,))
        level = CODE_NOISE * draws.uniform((len(code), 1), generator, code.device)
        return code + level * draws.normal(code.shape, generator, code.device)


def signal_readers(head: ActionHead, kind: str, width: int) -> nn.ModuleDict | None:
    """Return the networks that read a signal of `width` values. They are discarded after Stage 1; the head is kept.

    `code` learns a code of few dimensions for the motion of a chunk, while the head learns a map from codes to
    modulation. The head keeps this map, and adapters use it. `joints` and `pose` are the signals of the paper (section
    IV-D), read by one adapter for each mechanism. They only teach the backbone to respond to modulation.
    """
    if kind == "none":
        return None
    if kind == "code":
        return nn.ModuleDict({"code": CodeEncoder(width, head.config.rank, head.config.width)})
    readers = {name: AdapterConfig(name, through="blocks").make(width) for name in head.config.mechanisms}
    for name, reader in readers.items():
        reader.build(head.config.width, head.modulation_of(name).values)
    return nn.ModuleDict(readers)


def read_signal(
    head: ActionHead, readers: nn.ModuleDict, signal: Tensor, mechanism: str, generator: torch.Generator
) -> Tensor:
    """Return the modulation (b, 1, P) of a signal (b, c). It is zero for a share `DROPOUT` of the chunks."""
    shown = draws.uniform((len(signal), 1, 1), generator, signal.device) > DROPOUT
    if "code" in readers:
        return head.modulation_of(mechanism).steer(readers["code"](signal, generator)[:, None]) * shown
    return readers[mechanism](signal) * shown
