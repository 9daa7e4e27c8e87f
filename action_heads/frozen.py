"""A module that can be made a constant, for good: frozen is a promise."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=nn.Module)


class Freezable(nn.Module):
    """After `freeze`: no gradients, evaluation mode whatever `train()` says, no loading of weights that differ."""

    frozen = False

    @property
    def projections(self) -> dict[str, Tensor]:
        """Parameters that the promise leaves out, by name: those of a reshaped head from and to actions."""
        return {}

    def freeze(self) -> Self:
        """Make every weight a constant, for good; of a reshaped head, all but its new projections."""
        if not self.frozen:
            left_out = set(self.projections.values())
            for module in self.modules():  # each, since any part can be loaded into on its own
                if left_out.isdisjoint(module.parameters(recurse=False)):
                    module._register_load_state_dict_pre_hook(refuse_other_weights, with_module=True)
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


def thawed(part: M) -> M:
    """A trainable copy of a part of a frozen module, which nothing was promised of."""
    part = copy.deepcopy(part)
    for module in part.modules():
        module._load_state_dict_pre_hooks.clear()
    return part.requires_grad_(True)


def refuse_other_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before anything is copied into a module of a frozen head: what is to be loaded must be what is there.

    What is absent changes nothing, and torch reports it where loading is to be complete. PEFT loads parts.
    """
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    for name, tensor in own.items():
        given = state_dict.get(prefix + name)
        if given is None or name in module._non_persistent_buffers_set:
            continue
        if given.shape != tensor.shape or not torch.equal(given.to(tensor), tensor):
            raise ValueError(
                f"the head is frozen and the state to load has another {prefix}{name}: load the head it came from with "
                "ActionHead.from_pretrained, or load into a head that is not frozen yet"
            )
