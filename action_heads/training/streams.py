"""Random numbers that are a function of what they are for: a run that was killed draws again what it would have."""

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
    """Random numbers of one purpose, one step, one process: whatever else was drawn, these are the same."""
    entropy = np.random.SeedSequence([STREAMS.index(stream), seed, *numbers]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(entropy[0]) >> 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's own generator on the CPU, from which crops, colours and dropout come, whatever the device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
