"""Random generators seeded by purpose and training step, so a resumed run draws the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

STREAMS = (
    *("batch", "noise", "held-out batch", "held-out noise", "evaluation", "evaluation noise"),
    *("augmentation", "episodes", "acting"),
)


def generator(stream: str, seed: int, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one purpose, training step and process. It is independent of all other draws."""
    entropy = np.random.SeedSequence([STREAMS.index(stream), seed, *numbers]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(entropy[0]) >> 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator of torch within a block. Crops, colours and dropout use it on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
