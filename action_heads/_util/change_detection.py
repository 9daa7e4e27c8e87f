"""Detect every change to the weights, submodules and settings of a frozen module.

A check must cost far less than a denoising step. It therefore compares what torch records about a tensor: its identity,
its memory address and its version counter. If any of these differ, all tensors are hashed, and the hashes decide.

Torch does not count every write. Three measures cover the rest: `.data` of a frozen parameter shares the version
counter, small buffers are compared by value, and each check reads one slice of the memory again. Hooks and replaced
methods change no file, so they are not looked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from action_heads.frozen import Freezable

SLICE = 16_384  # Number of 32-bit words that each check reads again; takes about 5 us.
SMALL = 4_096  # Largest number of elements of a buffer that is compared by value.


class FrozenParameter(nn.Parameter):
    """A parameter whose `.data` shares its version counter, and whose `.numpy()` is read-only."""

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        nn.Parameter.data.__set__(self, value)  # type: ignore[attr-defined]

    def numpy(self, **options: Any):
        array = super().numpy(**options)
        array.flags.writeable = False
        return array


class Mark(NamedTuple):
    """The state of one tensor when it was last hashed."""

    name: str
    holder: dict[str, Any]  # The `_parameters` or `_buffers` dict of its module.
    key: str
    tensor: Tensor
    pointer: int
    version: int | None  # The version counter; None for an inference tensor, which has none.
    copy: Tensor | None  # The values of a small buffer on the CPU.


class Watch:
    """A record of a module's weights, buffers and submodules, except the submodules in its `left_out`.

    A copy (`copy.deepcopy`, pickle) keeps only the hashes, so its first check reads every weight.
    """

    def __init__(self, module: Freezable):
        self.digests = {name: digest(holder[key]) for name, holder, key in tensors_of(module, module.left_out)}
        self.structure = structure(module, module.left_out)
        self.plain = {path: plain_of(part) for path, part in module.named_modules()}
        self.marks: list[Mark] | None = None
        self._mark(module)

    def looks_unchanged(self) -> bool:
        """Return whether the module seems unchanged, without reading all of its weights."""
        if self.marks is None or any(map(moved, self.marks)):
            return False
        if any(now != before for now, before in self.parts):
            return False
        if any(part.config is not config for part, config in self.configs):
            return False
        if any(holder.get(key) is not None for holder, key in self.absent):
            return False
        if any(values.get(key) != before for values, key, before in self.settings):
            return False
        if not self.slices:
            return True
        self.turn = (self.turn + 1) % len(self.slices)
        view, before = self.slices[self.turn]
        return fold(view) == before

    def changes(self, module: Freezable) -> list[str]:
        """Read every weight, and return the names of those that changed."""
        if structure(module, module.left_out) != self.structure:
            return ["its module structure"]
        plain = {path: plain_of(part) for path, part in module.named_modules()}
        if plain.keys() != self.plain.keys():  # of a module that was left out
            return ["its module structure"]
        if differing := [path for path, values in plain.items() if values != self.plain[path]]:
            return [f"a setting of {path or 'the head'}" for path in differing]
        found = {name: holder[key] for name, holder, key in tensors_of(module, module.left_out)}
        if found.keys() != self.digests.keys():
            return sorted(found.keys() ^ self.digests.keys())
        if changed := self.differing(found):
            return changed
        self._mark(module)
        return []

    def differing(self, found: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the recorded tensors whose values differ from those found."""
        known = self.digests
        return [name for name, tensor in found.items() if name in known and digest(tensor) != known[name]]

    def _mark(self, module: Freezable) -> None:
        """Record the current state of every tensor for the cheap comparison."""
        self.parts = [(part._modules, dict(part._modules)) for part in module.modules() if part._modules]
        self.configs = [(part, part.config) for part in module.modules() if hasattr(part, "config")]
        # Parameters and buffers that a module declares and does not have, such as the bias of a linear map without one.
        self.absent = [
            (holder, key)
            for part in module.modules()
            if part not in module.left_out
            for holder in (part._parameters, part._buffers)
            for key, tensor in holder.items()
            if tensor is None
        ]
        self.settings = [(vars(part), *item) for part in module.modules() for item in plain_of(part).items()]
        self.marks = []
        for name, holder, key in tensors_of(module, module.left_out):
            tensor = holder[key]
            if type(tensor) is nn.Parameter:
                tensor.__class__ = FrozenParameter
            small = tensor.device.type == "cpu" and tensor.numel() <= SMALL and not isinstance(tensor, nn.Parameter)
            copy = tensor.detach().clone() if small else None
            version = None if tensor.is_inference() else tensor._version
            self.marks.append(Mark(name, holder, key, tensor, tensor.data_ptr(), version, copy))
        self.slices = [(view, fold(view)) for mark in self.marks for view in slices_of(mark.tensor)]
        self.turn = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"digests": self.digests, "structure": self.structure, "plain": self.plain}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.marks = None


def moved(mark: Mark) -> bool:
    """Return whether torch recorded that a tensor was replaced, unfrozen or written to since it was marked."""
    tensor = mark.tensor
    return (
        mark.holder.get(mark.key) is not tensor
        or tensor.requires_grad
        or (mark.version is not None and tensor._version != mark.version)
        or tensor.data_ptr() != mark.pointer
        or (mark.copy is not None and not torch.equal(tensor, mark.copy))
    )


def tensors_of(module: nn.Module, left_out: Set[nn.Module] = frozenset()) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the name, the holding dict and the key in that dict of every distinct parameter and buffer."""
    seen: set[Tensor] = set()
    for path, part in module.named_modules():
        for holder in () if part in left_out else (part._parameters, part._buffers):
            for key, tensor in holder.items():
                if tensor is not None and tensor not in seen:
                    seen.add(tensor)
                    yield f"{path}.{key}".lstrip("."), holder, key


def structure(module: nn.Module, left_out: Set[nn.Module] = frozenset()) -> list[tuple[str, str, str]]:
    """Return the path, class and settings of every submodule that is not left out."""
    parts = ((path, part) for path, part in module.named_modules() if part not in left_out)
    return [(path, type(part).__name__, settings_of(part)) for path, part in parts]


def settings_of(part: nn.Module) -> str:
    """Return the settings of a submodule as text; for a head, its contract takes the place of its config."""
    config = getattr(part, "config", None)
    contract = getattr(config, "contract", None)
    return part.extra_repr() + (contract() if contract else str(config or ""))


def plain_of(part: nn.Module) -> dict[str, int | float | str]:
    """Return the public attributes of a module that are plain values, such as the epsilon of a norm."""
    values = vars(part).items()
    return {
        key: value
        for key, value in values
        if isinstance(value, (int, float, str)) and key != "training" and not key.startswith("_")
    }


def digest(tensor: Tensor) -> bytes:
    """Return a hash of a tensor's dtype, shape and values. A tensor on the meta device has no values."""
    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.is_meta:
        return found.digest()
    whole = tensor.detach().cpu().contiguous()
    found.update(whole.reshape(-1).view(torch.uint8).numpy())
    return found.digest()


def slices_of(tensor: Tensor) -> list[Tensor]:
    """Return a CPU tensor as slices of 32-bit words. On other devices return none, since reading would block."""
    whole = tensor.detach()
    if whole.device.type != "cpu" or not whole.is_contiguous() or whole.numel() * whole.element_size() % 4:
        return []
    return list(whole.reshape(-1).view(torch.int32).split(SLICE))


def fold(words: Tensor) -> int:
    """Return a weighted sum of 32-bit words. A change to any single word changes it; so does almost any other change.

    The weights are odd, so a change times a weight never overflows to zero. They differ, so the order of words counts.
    """
    return int(torch.dot(words, _weights()[: len(words)]))


@cache
def _weights() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(-(2**31), 2**31, (SLICE,), dtype=torch.int32, generator=draw, device="cpu") | 1
