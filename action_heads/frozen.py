"""The frozen promise: a module whose parameters cannot change after `freeze`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from action_heads._util.change_detection import Watch, tensors_of

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=nn.Module)


class Freezable(nn.Module):
    """A module that can be frozen for good.

    After `freeze` it has no gradients, stays in evaluation mode even after `train()`, and raises an error if other
    weights are loaded. Any other change raises an error in the next call that computes with the module or saves it.
    """

    _frozen = False
    _watch: Watch | None = None
    _rounded = False  # whether a cast to a shorter dtype rounded its weights

    @property
    def frozen(self) -> bool:
        """True after `freeze`, which cannot be undone."""
        return self._frozen

    @property
    def left_out(self) -> frozenset[nn.Module]:
        """The modules that do not become frozen: in a reshaped head, those that depend on its new action space."""
        return frozenset()

    @property
    def projections(self) -> dict[str, Tensor]:
        """The parameters that do not become frozen, by name: a reshaped head's projections from and to actions."""
        left_out = {p for module in self.left_out for p in module.parameters(recurse=False)}
        return {name: p for name, p in self.named_parameters() if p in left_out} if left_out else {}

    def freeze(self) -> Self:
        """Freeze every parameter for good; in a reshaped head all except its new projections."""
        trained = set(self.projections.values())
        if not self._frozen:
            for module in self.modules():  # each of them, since `load_state_dict` of any part must be checked
                if trained.isdisjoint(module.parameters(recurse=False)):
                    module._register_load_state_dict_pre_hook(refuse_other_weights, with_module=True)
        self._frozen = True
        self.requires_grad_(bool(trained)).eval()
        if self._watch is None:
            self._watch = Watch(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Do as torch does, except that frozen parameters stay frozen."""
        super().requires_grad_(requires_grad and not self.frozen)
        for p in self.projections.values():
            p.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        """Do as torch does, except that a frozen module stays in evaluation mode, and its parameters are frozen again.

        A library that loads a whole model may have put trainable parameters with the same values in their place, as
        transformers does; it calls `eval` at the end.
        """
        if self.frozen:
            projections = set(self.projections.values())
            for p in self.parameters():
                if p.requires_grad and p not in projections:
                    p.requires_grad_(False)
        return super().train(mode and not self.frozen)

    def assert_frozen(self, thorough: bool = False) -> None:
        """Raise an error if a frozen module has changed. A module that is not frozen passes.

        Every `loss` and `sample` calls this, which takes about 50 µs. Every save, and `reshape`, calls it with
        `thorough`. `to` and similar calls read every weight too.

        Args:
            thorough: read every weight, instead of torch's version counters.

        Raises:
            RuntimeError: a parameter was changed, replaced or made trainable. The message names it.
        """
        if not self._frozen or torch.compiler.is_compiling():
            return
        if not (thorough or self.training or self._watch is None) and self._watch.looks_unchanged():
            return
        trained = {p for p in self.parameters() if p.requires_grad} - set(self.projections.values())
        if self.training or trained:
            raise RuntimeError(
                "parameters of a frozen head were made trainable. Call head.freeze() to freeze them again, or build a "
                "head that is not frozen."
            )
        if self._watch is not None and (changes := self._watch.changes(self)):
            shown = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
            raise RuntimeError(
                f"a frozen head was changed: {shown} differs. Adapters trained on it would not fit any head that can "
                "be loaded. Load the head again with ActionHead.from_pretrained; to change weights, build a head "
                "that is not frozen. An average of weights must leave the head out, as action_heads.EMA does."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module for `to` and similar calls, and check that no value was lost.

        Casting to a shorter dtype rounds the weights. Casting back to a longer one is refused, since it would not
        restore them.
        """
        if self._watch is None:
            return super()._apply(fn, recurse)
        self.assert_frozen()
        before = {name: holder[key].detach() for name, holder, key in tensors_of(self)}
        super()._apply(fn, recurse)
        if not self._watch.changes(self):
            return self
        after = {name: holder[key] for name, holder, key in tensors_of(self)}
        if self._watch.differing(before):  # What was overwritten past torch would be hashed below as the head's own.
            restore(after, before)
            self.assert_frozen(thorough=True)
        lost = [name for name, now in after.items() if not (now.is_meta or same(now, before[name].to(now)))]
        widened = any(now.dtype.itemsize > before[name].dtype.itemsize for name, now in after.items())
        if lost or (self._rounded and widened):
            restore(after, before)
            raise RuntimeError(
                f"moving a frozen head lost the values of {lost[0]}. Use to(device) or to(dtype), not to_empty."
                if lost
                else "this frozen head was rounded to a shorter dtype, so casting it to a longer one would not restore "
                "its weights. Load it again with ActionHead.from_pretrained(..., dtype=torch.float32)."
            )
        self._rounded |= not all(now.is_meta or same(now.to(before[name]), before[name]) for name, now in after.items())
        self._watch = Watch(self)
        return self


def restore(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Give tensors the memory, device and dtype that they had before, by name."""
    for name, tensor in tensors.items():
        tensor.data = before[name]


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in shape and in every value."""
    return torch.equal(one.detach(), other)


def thawed(part: M) -> M:
    """Return a trainable copy of a part of a frozen module."""
    part = copy.deepcopy(part)
    for module in part.modules():
        module._load_state_dict_pre_hooks.clear()
    for p in part.parameters():
        p.__class__ = nn.Parameter
    return part.requires_grad_(True)


def refuse_other_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Raise a ValueError if a state to load differs from the module's own; a hook before `load_state_dict` copies.

    A missing parameter changes nothing, and torch reports it if loading is strict. PEFT loads partial states.
    """
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    for name, tensor in own.items():
        given = state_dict.get(prefix + name)
        if given is None or name in module._non_persistent_buffers_set:
            continue
        if given.shape != tensor.shape or not torch.equal(given.to(tensor), tensor):
            raise ValueError(
                f"the head is frozen, but the state to load has a different {prefix}{name}. Load the head that the "
                "state came from with ActionHead.from_pretrained, or load into a head that is not frozen."
            )
