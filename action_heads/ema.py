"""Exponential moving average of trainable weights, with the warm-up that the paper uses (as in diffusers)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """An exponential moving average of the trainable parameters among `parameters`.

    Update n computes average ← decay · average + (1 - decay) · weight, with decay = 1 - (1 + n)^(-power), at most
    `max_decay`. Averages are float32, since bfloat16 would round small updates away.

    Args:
        parameters: frozen ones are ignored.
        max_decay: the largest decay.
        power: how fast the decay grows.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_decay: float = 0.9999, power: float = 0.75):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.average: list[Tensor] = [p.detach().float().clone() for p in self.parameters]
        self.max_decay, self.power, self.updates = max_decay, power, 0

    @property
    def decay(self) -> float:
        """The decay of the next update."""
        return min(self.max_decay, 1 - (1 + self.updates) ** -self.power)

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages; call it after every optimiser step."""
        if self.parameters:  # One call for all of them, since a GPU would need a launch for each.
            get_ema_multi_avg_fn(self.decay)(self.average, [p.detach().float() for p in self.parameters], self.updates)
        self.updates += 1

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Write the averages into the model, at the end of training."""
        for p, average in zip(self.parameters, self.average, strict=True):
            p.copy_(average)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the averaged weights inside this context, and restore its own weights on exit."""
        live = [p.detach().clone() for p in self.parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, weight in zip(self.parameters, live, strict=True):
                    p.copy_(weight)

    def state_dict(self) -> dict:
        """Return the averages and the number of updates."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned, in place."""
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
        self.updates = state["updates"]
