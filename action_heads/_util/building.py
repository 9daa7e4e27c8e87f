"""Building the parts of a policy inside models of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")


def in_float32_on_the_cpu(build: Callable[P, R]) -> Callable[P, R]:
    """Let a function build its modules in float32 on the CPU, whatever default dtype and device surround the call.

    Transformers builds models on `meta`, where pretrained weights that are copied are lost without a word, and with the
    dtype of their files as the default.
    """

    @wraps(build)
    def there(*args: P.args, **options: P.kwargs) -> R:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"):
                return build(*args, **options)
        finally:
            torch.set_default_dtype(before)

    return there


def building_for(device: torch.device) -> torch.device:
    """Return the context in which new parts for a device are built, before they are moved there.

    It is the CPU, whose random numbers are the same on every machine, or `meta`, which has no numbers. A surrounding
    context, such as that in which transformers builds models, does not count.
    """
    return device if device.type == "meta" else torch.device("cpu")


def keep_values(module: nn.Module) -> None:
    """Mark the weights of a module as initialised, for transformers.

    At the end of its `__init__`, a `PreTrainedModel` draws new values for every layer in it (`post_init`), also for
    pretrained ones, except for tensors with this mark. Those on the device `meta` have no values to keep.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_meta:
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]
