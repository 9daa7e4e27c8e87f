"""A module that can be made a constant, for good: frozen is a promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class Freezable(nn.Module):
    """After `freeze`: no gradients, evaluation mode whatever `train()` says, no loading of weights that differ."""

    frozen = False

    @property
    def projections(self) -> dict[str, Tensor]:
        """Parameters that the promise leaves out, by name: those of a reshaped head from and to actions."""
        return {}

    def freeze(self) -> Self:
        """Make every weight a constant, for good; of a reshaped head, all but its new projections."""
        self.frozen = True
        return self.requires_grad_(bool(self.projections)).eval()

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        super().requires_grad_(requires_grad and not self.frozen)
        for p in self.projections.values():
            p.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def assert_frozen(self) -> None:
        """A frozen module has no trainable weight, but what the promise leaves out, and is in evaluation mode."""
        trained = {p for p in self.parameters() if p.requires_grad} - set(self.projections.values())
        if self.frozen and (self.training or trained):
            raise RuntimeError(
                "a frozen head was made trainable behind its back: call head.freeze(), or build a new one"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Called by every `load_state_dict`, also that of a module around this one, before anything is copied."""
        promised = self.state_dict() if self.frozen else {}
        for name in promised.keys() - self.projections.keys():
            tensor, given = promised[name], state_dict.get(prefix + name)
            if given is None or given.shape != tensor.shape or not torch.equal(given.to(tensor), tensor):
                raise ValueError(
                    f"the head is frozen and the state to load has another {name}: load the head it came from with "
                    "ActionHead.from_pretrained, or load into a head that is not frozen yet"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
