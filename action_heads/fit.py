"""Stage 2 on data that fits in memory: train what a policy declares trainable.

Axes: n samples, h horizon, a action, c condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from action_heads._util.conditions import Mask, move, parts, take
from action_heads._util.ema import EMA
from action_heads._util.extras import require
from action_heads._util.flags import check_least
from action_heads._util.precision import bfloat16_is_faster
from action_heads.diffusion.levels import NoiseConfig
from action_heads.policy import ConditionedHead


class Schedule(Protocol):
    """What `cosine` reads of a configuration."""

    @property
    def steps(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def warmup(self) -> int: ...


PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class FitConfig:
    """Stage 2 of the recipe.

    Attributes:
        steps, batch_size: optimiser steps, and chunks in each.
        lr, warmup: peak of a cosine that ends at zero, after so many steps of linear warm-up.
        weight_decay, clip, ema: of AdamW; largest gradient norm; largest decay of the moving average.
        seed: of batches, noise and its level.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 where the device computes it faster.
        levels: how noise levels are drawn: "uniform", "logit_normal" (the middle), "beta" (the noisier) or "last" (the
            noisiest alone, which is all that sampling with "one_step" visits).
        noise_samples: how often each chunk of a batch is noised. Its condition is read once.
        prefixes: also train to continue committed steps, for real-time chunking on backbones that mix time.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 2.5e-3
    warmup: int = 50
    weight_decay: float = 1e-6
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    precision: str = "auto"
    levels: str = "uniform"
    noise_samples: int = 1
    prefixes: bool = False

    def __post_init__(self):
        check_least(self, 1, "steps", "batch_size", "warmup")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        NoiseConfig(self.levels, self.noise_samples, self.prefixes)


def fit(
    policy: ConditionedHead,
    actions: Tensor,
    cond: Any,
    *,
    mask: Mask = None,
    is_pad: Tensor | None = None,
    config: FitConfig = FitConfig(),
    description: str = "training the adapter",
    keep: Callable[[int], None] | None = None,
    keep_at: Collection[int] = (),
) -> list[float]:
    """Train on actions (n h a) in robot units and conditions (n c); the policy keeps the averaged weights.

    Conditions may be tokens (n, m, c) with a mask (n, m), what `action_heads.vlm.embed` cached, or a dict of such for
    an adapter of several sources. `keep(step)` is called after the steps `keep_at`, while the policy holds its average.

    Returns the loss of every step. The same seed and precision on the same machine give the same weights.
    """
    rows = [len(part) for part in (actions, *parts(cond), *parts(mask), is_pad) if part is not None]
    if len(set(rows)) > 1:
        raise ValueError(
            f"actions, cond, mask (of each source) and is_pad must have as many rows, a chunk each: got {rows}"
        )
    tqdm = require("tqdm.auto", "train").tqdm
    device = policy.head.device
    parameters = list(policy.train().trainable_parameters())
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)
    ema = EMA(parameters, max_decay=config.ema)
    generator = torch.Generator(device).manual_seed(config.seed)
    actions, cond, mask = actions.to(device), move(cond, device), move(mask, device)
    is_pad = torch.zeros(actions.shape[:2], dtype=torch.bool, device=device) if is_pad is None else is_pad.to(device)
    low_precision = config.precision == "bf16" or (config.precision == "auto" and bfloat16_is_faster(device))
    losses: list[Tensor] = []
    with tqdm(range(config.steps), desc=description, unit="step") as bar:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, config)
            rows = torch.randint(len(actions), (config.batch_size,), generator=generator, device=device)
            seen, valid = (move(taken, device) for taken in take(cond, mask, rows))
            with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
                loss = policy.loss(
                    actions[rows],
                    seen,
                    mask=valid,
                    is_pad=is_pad[rows],
                    generator=generator,
                    levels=config.levels,
                    noise_samples=config.noise_samples,
                    prefixes=config.prefixes,
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.update()
            losses.append(loss.detach())
            if keep and step + 1 in keep_at:
                with ema.averaged():
                    keep(step + 1)
            if step % 50 == 49:  # seldom: reading a loss waits for the accelerator
                bar.set_postfix(loss=f"{torch.stack(losses[-50:]).mean():.4f}")
    ema.copy_to_model()
    policy.eval()
    return torch.stack(losses).tolist()


def cosine(step: int, config: Schedule) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / config.warmup)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
