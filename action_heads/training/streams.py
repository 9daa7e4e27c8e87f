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
    return torch.Generator(device).manual_seed(seed_of(stream, seed, *numbers))


def seed_of(stream: str, seed: int, *numbers: int) -> int:
    """Return the seed of the generator of one purpose, training step and process."""
    entropy = np.random.SeedSequence([STREAMS.index(stream), seed, *numbers]).generate_state(1, np.uint64)
    return int(entropy[0]) >> 1


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generator of the CPU, from which crops and colours are drawn on every device, within a block.

    If `device` is a GPU, seed its generator too, from which dropout draws there.
    """
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
