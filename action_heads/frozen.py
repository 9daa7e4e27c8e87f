"""A module that can be made a constant, for good: frozen is a promise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from action_heads._util.change_detection import Watch, tensors_of

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=nn.Module)


class Freezable(nn.Module):
    """After `freeze`: no gradients, evaluation mode whatever `train()` says, and no weight that differs.

    Loading other weights is refused. A change by any other way is an error of the next call that computes with the
    module or writes it to a file.
    """

    _frozen = False
    _watch: Watch | None = None
    _rounded = False  # whether it was cast to a dtype that does not hold its weights

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called; there is no way back."""
        return self._frozen

    @property
    def left_out(self) -> frozenset[nn.Module]:
        """Modules that the promise leaves out: of a reshaped head, all that belong to its new actions."""
        return frozenset()

    @property
    def projections(self) -> dict[str, Tensor]:
        """Parameters that the promise leaves out, by name: those of a reshaped head from and to actions."""
        left_out = {p for module in self.left_out for p in module.parameters(recurse=False)}
        return {name: p for name, p in self.named_parameters() if p in left_out} if left_out else {}

    def freeze(self) -> Self:
        """Make every weight a constant, for good; of a reshaped head, all but its new projections."""
        trained = set(self.projections.values())
        if not self._frozen:
            for module in self.modules():  # each, since any part can be loaded into on its own
                if trained.isdisjoint(module.parameters(recurse=False)):
                    module._register_load_state_dict_pre_hook(refuse_other_weights, with_module=True)
        self._frozen = True
        self.requires_grad_(bool(trained)).eval()
        if self._watch is None:
            self._watch = Watch(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        super().requires_grad_(requires_grad and not self.frozen)
        for p in self.projections.values():
            p.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def assert_frozen(self, thorough: bool = False) -> None:
        """Raise unless a frozen module is, but for what the promise leaves out, exactly what it was.

        Every `loss` and `sample` calls it, for some 50 us; whatever writes a file calls it with `thorough`, which reads
        every weight. A module that is not frozen passes.

        Raises:
            RuntimeError: a weight was changed or made trainable, or a part replaced; the message names it.
        """
        if not self._frozen or torch.compiler.is_compiling():
            return
        if not (thorough or self.training or self._watch is None) and self._watch.looks_unchanged():
            return
        trained = {p for p in self.parameters() if p.requires_grad} - set(self.projections.values())
        if self.training or trained:
            raise RuntimeError(
                "a frozen head was made trainable behind its back: call head.freeze(), or build a new one"
            )
        if self._watch is not None and (changes := self._watch.changes(self)):
            shown = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
            raise RuntimeError(
                f"a frozen head was changed behind its back: {shown} is not what it was. Adapters trained on it would "
                "belong to no head that can be loaded again. Load it anew with ActionHead.from_pretrained; to change "
                "weights, build a head that is not frozen"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast, as `to` and its kin do; what is moved must arrive, and what was rounded stays so."""
        if self._watch is None:
            return super()._apply(fn, recurse)
        self.assert_frozen()
        before = {name: holder[key].detach() for name, holder, key in tensors_of(self)}
        super()._apply(fn, recurse)
        if not self._watch.changes(self):
            return self
        after = {name: holder[key] for name, holder, key in tensors_of(self)}
        lost = [name for name, now in after.items() if not (now.is_meta or same(now, before[name].to(now)))]
        widened = any(now.dtype.itemsize > before[name].dtype.itemsize for name, now in after.items())
        if lost or (self._rounded and widened):
            for name, now in after.items():
                now.data = before[name]
            raise RuntimeError(
                f"moving a frozen head lost {lost[0]}: use to(device) or to(dtype), not to_empty"
                if lost
                else "this frozen head was rounded to a shorter dtype, and a longer one does not bring its weights "
                "back: load it again with ActionHead.from_pretrained(..., dtype=torch.float32)"
            )
        self._rounded |= not all(now.is_meta or same(now.to(before[name]), before[name]) for name, now in after.items())
        self._watch = Watch(self)
        return self


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.detach(), other)


def thawed(part: M) -> M:
    """A trainable copy of a part of a frozen module, which nothing was promised of."""
    part = copy.deepcopy(part)
    for module in part.modules():
        module._load_state_dict_pre_hooks.clear()
    for p in part.parameters():
        p.__class__ = nn.Parameter
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
