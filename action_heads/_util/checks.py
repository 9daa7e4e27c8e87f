"""Refusals that say what was given, what was expected, and the remedy.

Axes: b batch, h horizon, n tokens, c condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask


def check_condition(cond: Condition, mask: Mask, cond_dim: int | Mapping[str, int], values: bool) -> None:
    """A condition is (b, c), or tokens (b, n, c) with an optional mask (b, n), true or 1 where a token counts.

    Of several sources, by name, each is one, for the same batch.
    """
    if isinstance(cond_dim, int):
        if isinstance(cond, Mapping) or isinstance(mask, Mapping):
            raise ValueError(
                f"this adapter reads one condition of width {cond_dim}, and got several by name: attach one with "
                'cond_dim={"tokens": 960, "state": 8}, say'
            )
        return _check_source("cond", "mask", cond, mask, cond_dim, values)
    if not isinstance(cond, Mapping) or cond.keys() != cond_dim.keys():
        given = sorted(cond) if isinstance(cond, Mapping) else f"a {type(cond).__name__}"
        raise ValueError(f"cond must be a dict of tensors for the sources {sorted(cond_dim)}, got {given}")
    if mask is not None and (not isinstance(mask, Mapping) or mask.keys() - cond_dim.keys()):
        given = sorted(mask) if isinstance(mask, Mapping) else f"a {type(mask).__name__}"
        raise ValueError(f"masks of several sources are a dict by their names, of {sorted(cond_dim)}, got {given}")
    for name, width in cond_dim.items():
        part_mask = None if mask is None else mask.get(name)
        _check_source(f"cond[{name!r}]", f"mask[{name!r}]", cond[name], part_mask, width, values)
    if len({len(part) for part in cond.values()}) > 1:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in cond.items())
        raise ValueError(f"all sources describe the same batch, got rows: {sizes}")


def _check_source(name: str, mask_name: str, cond: Any, mask: Any, cond_dim: int, values: bool) -> None:
    if not isinstance(cond, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got a {type(cond).__name__}: use torch.as_tensor")
    if cond.ndim not in (2, 3):
        raise ValueError(
            f"{name} must be (batch, {cond_dim}), or tokens (batch, n, {cond_dim}), got {cond.ndim} axes, "
            f"{tuple(cond.shape)}: one row needs a batch axis, cond[None]; more axes of tokens become one, "
            "cond.flatten(1, -2)"
        )
    if cond.shape[-1] != cond_dim:
        raise ValueError(
            f"{name} must be (batch, {cond_dim}), or tokens (batch, n, {cond_dim}), got {tuple(cond.shape)}: "
            "set the adapter's cond_dim to the width of your encoder's output"
        )
    if not cond.is_floating_point():
        raise ValueError(f"{name} must hold floats, got {cond.dtype}: embed ids before they reach the adapter")
    if 0 in cond.shape:
        raise ValueError(f"{name} is empty: {tuple(cond.shape)}")
    if mask is not None:
        _check_mask(mask_name, mask, cond, values)
    if values:
        mask = None if mask is None else mask.bool()
        counted = cond if mask is None else cond[mask]
        if not counted.isfinite().all():
            where = cond.isfinite() if mask is None else cond.isfinite() | ~mask[..., None]
            row = int((~where.flatten(1).all(1)).nonzero()[0])
            raise ValueError(
                f"{name} has NaN or infinite values, first in batch row {row}: look at the encoder's output"
            )


def _check_mask(name: str, mask: Any, cond: Tensor, values: bool) -> None:
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got a {type(mask).__name__}: use torch.as_tensor")
    if cond.ndim == 2:
        raise ValueError(f"{name} was given with a condition that has no tokens: pass tokens (batch, n, c) or no mask")
    if mask.shape != cond.shape[:2]:
        raise ValueError(f"{name} must be {tuple(cond.shape[:2])} to match the tokens, got {tuple(mask.shape)}")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} must be boolean or integer, true or 1 where a token counts, got {mask.dtype}: pass mask == 1, or "
            "mask == 0 if it is one to add to attention scores"
        )
    if values:
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"{name} holds {mask.unique().tolist()[:4]}, expected 0 and 1: pass mask > 0, say")
        if not mask.any(1).all():
            raise ValueError(f"no valid token in row {int((~mask.any(1)).nonzero()[0])}: the {name} is all false there")


def check_count(name: str, count: int) -> int:
    """A whole number of at least one, as it was given."""
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {count}")
    return count


def check_pad(is_pad: Tensor, batch: int, horizon: int, values: bool = True) -> None:
    """Padding is (b, h), true where an action stands beyond the end of its episode; not everywhere."""
    if not isinstance(is_pad, Tensor):
        raise ValueError(f"is_pad must be a torch tensor, got a {type(is_pad).__name__}: use torch.as_tensor")
    if is_pad.shape != (batch, horizon) or is_pad.dtype != torch.bool:
        raise ValueError(
            f"is_pad must be boolean ({batch}, {horizon}), true where an action is padding, "
            f"got {is_pad.dtype} {tuple(is_pad.shape)}"
        )
    if values and is_pad.all():
        raise ValueError(
            f"all {batch} x {horizon} actions of this batch are padding, so there is nothing to learn from: "
            "is_pad is true where an action must not count; perhaps it is inverted"
        )


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating dtype given as such or by its name, such as "bfloat16"."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating dtype of torch, such as torch.float32 or 'bfloat16', got {dtype!r}")
    return found


def as_device(device: torch.device | str | int) -> torch.device:
    """Return a device that is here, given as such or by its name, such as "cuda:0"."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        gpus = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise ValueError(
            f"device {device!r} can't be used ({str(error).splitlines()[0]}): torch {torch.__version__} sees "
            f"{gpus} here; device='cpu' always works"
        ) from error
    return found


def check_generator(generator: Any) -> None:
    """A source of random numbers is a torch.Generator, or none."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {generator!r}: use torch.Generator().manual_seed(0), say"
        )
