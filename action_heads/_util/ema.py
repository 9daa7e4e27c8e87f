"""Exponential moving average of trainable weights, with the warm-up of the paper's recipe (as in diffusers)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Average ← decay · average + (1 - decay) · weight, with decay 1 - (1 + n)^(-power), at most `max_decay`.

    Frozen parameters are left out: they are their own average. Averages are float32: a bfloat16 one would round every
    small step away.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_decay: float = 0.9999, power: float = 0.75):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.average: list[Tensor] = [p.detach().float().clone() for p in self.parameters]
        self.max_decay, self.power, self.updates = max_decay, power, 0

    @property
    def decay(self) -> float:
        return min(self.max_decay, 1 - (1 + self.updates) ** -self.power)

    @torch.no_grad()
    def update(self) -> None:
        """Call after every optimiser step."""
        for average, p in zip(self.average, self.parameters, strict=True):
            average.lerp_(p.float(), 1 - self.decay)
        self.updates += 1

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """End of training: the model keeps the average."""
        for p, average in zip(self.parameters, self.average, strict=True):
            p.copy_(average)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Evaluate with the averaged weights, then put the live ones back."""
        live = [p.detach().clone() for p in self.parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, weight in zip(self.parameters, live, strict=True):
                    p.copy_(weight)

    def state_dict(self) -> dict:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
        self.updates = state["updates"]
