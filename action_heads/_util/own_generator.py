"""Random numbers of one thread, apart from torch's global generator."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OwnGenerator(TorchDispatchMode):
    """A context in which this thread draws the random numbers of the CPU from a generator of its own.

    `torch.random.fork_rng` restores the global generator in the end, which rewinds it for other threads that drew from
    it meanwhile: they draw the same numbers once more. Here the global generator is not touched. Numbers on other
    devices and of operators that take no generator, such as dropout, are drawn from the global ones.

    Args:
        seed: seed of the generator, which then gives the numbers that `torch.manual_seed` would.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seeded = with_generator(func) if torch.Tag.nondeterministic_seeded in func.tags else None
        if seeded is not None and kwargs.get("generator") is None and is_on_cpu(args, kwargs):
            return seeded(*args, **kwargs, generator=self.generator)
        return func(*args, **kwargs)


@cache
def with_generator(func: Any) -> Any | None:
    """Return the overload of an operator with the same arguments and a generator, or None if there is none."""
    names = {argument.name for argument in func._schema.arguments} | {"generator"}
    for overload in (func._overloadname, *func.overloadpacket.overloads()):
        found = getattr(func.overloadpacket, overload)
        arguments = {argument.name: argument.kwarg_only for argument in found._schema.arguments}
        if arguments.keys() == names and arguments["generator"]:
            return found
    return None


def is_on_cpu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operator with these arguments computes on the CPU."""
    given = next((x.device for x in args if isinstance(x, Tensor)), torch.device("cpu"))
    return torch.device(kwargs.get("device") or given).type == "cpu"
