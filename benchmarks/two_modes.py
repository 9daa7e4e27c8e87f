"""Measure whether a chunk keeps one of two modes, when demonstrations pass an obstacle on either side.

The condition is the same for both sides. The result is the share of sampled chunks that stay on one side throughout,
since a chunk that changes sides goes through the obstacle.

    uv run benchmarks/stage2.py heads && uv run benchmarks/two_modes.py

Axes: n chunks, h horizon, a action.
"""

from __future__ import annotations

import math

import torch
import tyro
from action_heads_lab.sim.interval import wilson
from common import write_results
from stage2 import pretrained
from stage2_studies import HEADS
from torch import Tensor

from action_heads import ActionHead, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.pretrain.settings import PretrainConfig

SAMPLES = 500
CLEAR = 0.03  # Metres. Demonstrations pass at 5.9 cm or more in the time steps that count.


def demonstrations(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return conditions (n 1), the hand's position in m, and chunks (n 16 10): 30 cm ahead, 10 cm to a side."""
    along = torch.linspace(0, 1, 16)
    side = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1
    start = 0.2 * torch.rand((n, 1), generator=generator)
    chunk = torch.zeros(n, 16, 10)
    chunk[..., 0] = 0.3 + start + 0.3 * along
    chunk[..., 1] = 0.1 * side * (math.pi * along).sin()
    chunk[..., 2] = 0.2
    chunk[..., 3:10] = torch.tensor([1.0, 0, 0, 0, 1, 0, -1])
    return start, chunk


def main() -> None:
    rows = []
    for name, through in (("base", "code"), ("base", "both"), ("mixer", "code"), ("mixer", "both"), ("random", "both")):
        torch.manual_seed(0)
        random = name == "random"
        head = ActionHead(PretrainConfig.from_flat(HEADS["mixer"]).head()).freeze() if random else pretrained(name)
        cond, actions = demonstrations(4000, torch.Generator().manual_seed(0))
        adapter = AdaLNZero(1, through=through, relearn_step=random)
        adapter.standardize(cond)
        policy = head.attach(adapter, normalizer=Normalizer.fit(actions, head.config.space))
        fit(policy, actions, cond, config=FitConfig(steps=1000), description=f"{name}, {through}")
        cond, actions = demonstrations(SAMPLES, torch.Generator().manual_seed(1))
        across = policy.sample(cond, steps=10, generator=torch.Generator().manual_seed(2))[:, 3:13, 1]
        sides = across.sign()
        # A chunk must also keep its distance, since one between the two modes would hit the obstacle.
        kept = int(((sides == sides[:, :1]) & (across.abs() > CLEAR)).all(1).sum())
        low, high = wilson(kept, SAMPLES)
        left = int((sides[:, 0] > 0).sum())
        rows.append(
            {"head": "random mixer" if random else name, "through": through, "kept one side": kept, "of": SAMPLES}
            | {"interval": [round(low, 3), round(high, 3)], "began left": left}
        )
        print(rows[-1])
    write_results("two_modes", rows)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
