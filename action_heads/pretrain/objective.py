"""The loss of Stage 1: denoise chunks without an observation, under the step modulation of one mechanism.

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
DROPOUT = 0.3  # share of chunks shown without their signal: what a fresh adapter starts from
CODE_NOISE = 0.3  # largest standard deviation, in units of the code's own; drawn uniformly for each chunk


class Stage1(nn.Module):
    """The head and the throw-away networks that read its signal: all that trains."""

    def __init__(self, head: ActionHead, signal: str, width: int, levels: str = "uniform"):
        super().__init__()
        self.head = head
        self.levels = levels
        self.readers = signal_readers(head, signal, width)

    def forward(self, batch: Batch, step: int, noise: torch.Generator) -> Tensor:
        """Loss (scalar) of a batch: mechanisms take turns, and clean prefixes with them."""
        mechanisms = self.head.config.mechanisms
        mechanism = mechanisms[step % len(mechanisms)]
        mixed = self.head.backbone.mixes_time and step // len(mechanisms) % 2 == 1
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
    """Mean squared error (scalar) of the prediction for normalised chunks x0 (b h a) with their signal (b c)."""
    modulation = head.modulation_of(mechanism)
    t, clean = noise_levels(head, len(x0), mixed, generator, levels, takes_levels_per_step(head, modulation))
    noise = Noise(t, head.objective.random_noise(x0.shape, generator), clean)
    values = head.step_values(modulation, t)
    if readers is not None and signal is not None:
        values = values + read_signal(head, readers, signal, mechanism, generator)
    return denoising_loss(head, x0, noise, values, modulation)


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
    per_step = mixed and per_step
    own = draws.uniform((batch, 1), generator, generator.device) < 0.5 if per_step else None
    t = head.objective.random_steps((batch, 1), generator, levels)
    if not mixed:
        return t, torch.zeros_like(t, dtype=torch.bool)
    if own is None:
        return t, random_lengths(head, batch, generator)
    each = head.objective.random_steps((batch, head.config.horizon), generator, levels)
    clean = random_lengths(head, batch, generator)
    return torch.where(own.to(t.device), each, t).masked_fill(clean, 0), clean


class CodeEncoder(nn.Module):
    """A normalised chunk (b, h·a) -> its code z (b r), of unit mean square, by which adapters will steer the head.

    Noise on the code keeps neighbouring codes neighbouring motions, which is what lets a small adapter hit the right
    one.
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
    """Return the throw-away networks that read a signal of `width` values: only the head is kept.

    `code` learns a few dimensions that say what a chunk does, and the head's own map from them to modulation, which
    is kept: an adapter will aim with it. `joints` and `pose` are the paper's (section IV-D), one adapter a mechanism:
    their use is only that the backbone learns to be steered.
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
    """Signal (b, c) -> modulation (b, 1, P), none at all for a share of the chunks."""
    shown = draws.uniform((len(signal), 1, 1), generator, signal.device) > DROPOUT
    if "code" in readers:
        return head.modulation_of(mechanism).steer(readers["code"](signal, generator)[:, None]) * shown
    return readers[mechanism](signal) * shown
