"""Notice every change of a module's weights, parts and constants: what "frozen" is checked against.

A check must cost far less than a denoising step, so it looks at what torch knows of a tensor anyway: which object it
is, where its memory lies, and how often torch wrote to it. If something moved, everything is hashed, and the hashes
decide. Writes that torch does not count are met in other ways: `.data` of a frozen parameter counts too, small buffers
are compared, and one slice of the memory is read again in each check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from action_heads.frozen import Freezable

SLICE = 16_384  # 32-bit words that each check reads again, about 5 us
SMALL = 4_096  # elements of a buffer that is compared whole


class FrozenParameter(nn.Parameter):
    """A parameter whose `.data` shares its count of writes, and whose `.numpy()` cannot be written to."""

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
    """One tensor as it was when it was last hashed."""

    name: str
    holder: dict[str, Any]  # the `_parameters` or `_buffers` of its module
    key: str
    tensor: Tensor
    pointer: int
    version: int | None  # how often torch wrote to it; None of an inference tensor, which does not count
    copy: Tensor | None  # the values of a small buffer on the CPU


class Watch:
    """The weights, buffers and parts of a module as they are now, apart from its parts that are `left_out`.

    A copy (`copy.deepcopy`, pickle) keeps the hashes alone, and is checked in full before it is first used.
    """

    def __init__(self, module: Freezable):
        self.digests = {name: digest(holder[key]) for name, holder, key in tensors_of(module, module.left_out)}
        self.structure = structure(module)
        self.marks: list[Mark] | None = None
        self._mark(module)

    def looks_unchanged(self) -> bool:
        """Return whether nothing moved, as far as can be told without reading all weights."""
        if self.marks is None or any(map(moved, self.marks)):
            return False
        if any(now != before for now, before in self.parts):
            return False
        if any(part.config is not config for part, config in self.settings):
            return False
        if not self.slices:
            return True
        self.turn = (self.turn + 1) % len(self.slices)
        view, before = self.slices[self.turn]
        return fold(view) == before

    def changes(self, module: Freezable) -> list[str]:
        """Read every weight, and return the names of what is no longer as it was."""
        if structure(module) != self.structure:
            return ["what it is made of"]
        found = {name: holder[key] for name, holder, key in tensors_of(module, module.left_out)}
        if found.keys() != self.digests.keys():
            return sorted(found.keys() ^ self.digests.keys())
        if changed := [name for name, tensor in found.items() if digest(tensor) != self.digests[name]]:
            return changed
        self._mark(module)
        return []

    def _mark(self, module: Freezable) -> None:
        """Note where everything is now, to be compared with cheaply."""
        self.parts = [(part._modules, dict(part._modules)) for part in module.modules() if part._modules]
        self.settings = [(part, part.config) for part in module.modules() if hasattr(part, "config")]
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
        return {"digests": self.digests, "structure": self.structure}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.marks = None


def moved(mark: Mark) -> bool:
    """Return whether a tensor was replaced, thawed or written to since it was marked, as far as torch knows."""
    tensor = mark.tensor
    return (
        mark.holder.get(mark.key) is not tensor
        or tensor.requires_grad
        or (mark.version is not None and tensor._version != mark.version)
        or tensor.data_ptr() != mark.pointer
        or (mark.copy is not None and not torch.equal(tensor, mark.copy))
    )


def tensors_of(module: nn.Module, left_out: Set[nn.Module] = frozenset()) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield every parameter and buffer, each once: its name, the dict that holds it, and its key in there."""
    seen: set[Tensor] = set()
    for path, part in module.named_modules():
        for holder in () if part in left_out else (part._parameters, part._buffers):
            for key, tensor in holder.items():
                if tensor is not None and tensor not in seen:
                    seen.add(tensor)
                    yield f"{path}.{key}".lstrip("."), holder, key


def structure(module: Freezable) -> list[tuple[str, str, str]]:
    """Return path, class and settings of every part that is not left out."""
    left_out = module.left_out
    parts = ((path, part) for path, part in module.named_modules() if part not in left_out)
    return [(path, type(part).__name__, settings_of(part)) for path, part in parts]


def settings_of(part: nn.Module) -> str:
    """Return what a part computes with beside its tensors; of a head's configuration, what its weights mean."""
    config = getattr(part, "config", None)
    contract = getattr(config, "contract", None)
    return part.extra_repr() + (contract() if contract else str(config or ""))


def digest(tensor: Tensor) -> bytes:
    """Return a hash of a tensor's dtype, shape and values; on the meta device there are none."""
    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.is_meta:
        return found.digest()
    whole = tensor.detach().cpu().contiguous()
    found.update(whole.reshape(-1).view(torch.uint8).numpy())
    return found.digest()


def slices_of(tensor: Tensor) -> list[Tensor]:
    """Return a parameter on the CPU as pieces of 32-bit words; nothing elsewhere, where reading would wait."""
    whole = tensor.detach()
    if whole.device.type != "cpu" or not whole.is_contiguous() or whole.numel() * whole.element_size() % 4:
        return []
    return list(whole.reshape(-1).view(torch.int32).split(SLICE))


def fold(words: Tensor) -> int:
    """Return the sum of 32-bit words, which any change of a single one alters."""
    return int(words.sum(dtype=torch.int64))
