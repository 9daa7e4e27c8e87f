"""Checks of the arguments of policies, with errors that say what was given, what was expected and what to do.

Axes: b batch, h horizon, n tokens, c condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Number
from typing import Any

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask
from action_heads._util.limits import shown

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # dtypes that networks compute in


def check_type(name: str, given: Any, kind: type | tuple[type, ...], remedy: str) -> None:
    """Raise a ValueError if an argument has another type. `remedy` says what to pass instead."""
    if not isinstance(given, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(f"{name} must be {' or '.join(map(a, kinds))}, got {described(given)}. {remedy}")


def described(given: Any) -> str:
    """Return a value for a message: itself if it is short to write, otherwise its type."""
    return shown(given) if given is None or isinstance(given, (str, Number, type)) else a(type(given))


def a(kind: type) -> str:
    """Return the name of a type with its article."""
    return f"a{'n' * (kind.__name__[0] in 'AEIOU')} {kind.__name__}"


def check_condition(cond: Condition, mask: Mask, cond_dim: int | Mapping[str, int], values: bool) -> None:
    """Check a condition and its mask against `cond_dim`.

    A condition is a vector (b c), or tokens (b n c) with an optional mask (b n) that is true or 1 where a token counts.
    With several named sources, each source is such a condition, and all have the same batch.

    Args:
        values: also check the values, which makes the host wait for an accelerator.

    Raises:
        ValueError: the condition or the mask has another type, shape or dtype, or invalid values.
    """
    if isinstance(cond_dim, int):
        if isinstance(cond, Mapping) or isinstance(mask, Mapping):
            raise ValueError(
                f"this adapter takes one condition of width {cond_dim}, but a dict of several was given. For several "
                'sources, build the adapter with a dict of their widths, such as cond_dim={"tokens": 960, "state": 8}.'
            )
        return _check_source("cond", "mask", cond, mask, cond_dim, values)
    if not isinstance(cond, Mapping) or cond.keys() != cond_dim.keys():
        given = sorted(cond) if isinstance(cond, Mapping) else f"a {type(cond).__name__}"
        raise ValueError(f"cond must be a dict of tensors for the sources {sorted(cond_dim)}, got {given}")
    if mask is not None and (not isinstance(mask, Mapping) or mask.keys() - cond_dim.keys()):
        given = sorted(mask) if isinstance(mask, Mapping) else f"a {type(mask).__name__}"
        raise ValueError(f"mask must be a dict with keys among the sources {sorted(cond_dim)}, got {given}")
    for name, width in cond_dim.items():
        part_mask = None if mask is None else mask.get(name)
        _check_source(f"cond[{name!r}]", f"mask[{name!r}]", cond[name], part_mask, width, values)
    if len({len(part) for part in cond.values()}) > 1:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in cond.items())
        raise ValueError(f"all sources of cond must have the same batch size, got {sizes}")


def _check_source(name: str, mask_name: str, cond: Any, mask: Any, cond_dim: int, values: bool) -> None:
    if not isinstance(cond, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got a {type(cond).__name__}; convert it with torch.as_tensor")
    if cond.ndim not in (2, 3):
        raise ValueError(
            f"{name} has shape {tuple(cond.shape)}, with {cond.ndim} axes; expected (batch, {cond_dim}), or tokens "
            f"(batch, n, {cond_dim}). Add a batch axis to a single vector with cond[None]; merge several token axes "
            "with cond.flatten(1, -2)."
        )
    if cond.shape[-1] != cond_dim:
        raise ValueError(
            f"{name} has shape {tuple(cond.shape)}, but this adapter was built for cond_dim={cond_dim}. "
            f"Pass cond_dim={cond.shape[-1]} to the adapter, or check the output of your encoder."
        )
    if not cond.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {cond.dtype}; embed token ids before passing them")
    if 0 in cond.shape:
        raise ValueError(f"{name} is empty: it has shape {tuple(cond.shape)}")
    if mask is not None:
        _check_mask(mask_name, mask, cond, values)
    if values:
        mask = None if mask is None else mask.bool()
        counted = cond if mask is None else cond[mask]
        if not counted.isfinite().all():
            where = cond.isfinite() if mask is None else cond.isfinite() | ~mask[..., None]
            row = int((~where.flatten(1).all(1)).nonzero()[0])
            raise ValueError(
                f"{name} has NaN or infinite values, first in batch row {row}; check the output of your encoder"
            )


def _check_mask(name: str, mask: Any, cond: Tensor, values: bool) -> None:
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got a {type(mask).__name__}; convert it with torch.as_tensor")
    if cond.ndim == 2:
        raise ValueError(f"{name} was given, but cond has no token axis; pass tokens (batch, n, c), or no mask")
    if mask.shape != cond.shape[:2]:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; expected {tuple(cond.shape[:2])}, one value per token")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} must be boolean or integer, true or 1 where a token counts, got {mask.dtype}. Pass mask == 1, or "
            "mask == 0 for a mask that is added to attention scores."
        )
    if values:
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise ValueError(
                f"{name} holds {mask.unique().tolist()[:4]}; expected only 0 and 1. Pass mask > 0, for example."
            )
        if not mask.any(1).all():
            raise ValueError(f"{name} is false for all tokens of batch row {int((~mask.any(1)).nonzero()[0])}")


def check_count(name: str, count: int) -> int:
    """Return a count unchanged, or raise if it is not an integer of at least 1."""
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {described(count)}")
    return count


def check_pad(is_pad: Tensor, batch: int, horizon: int, values: bool = True) -> None:
    """Check padding (b h), which is true where an action lies beyond the end of its episode, but not everywhere."""
    if not isinstance(is_pad, Tensor):
        raise ValueError(f"is_pad must be a torch tensor, got a {type(is_pad).__name__}; use torch.as_tensor")
    if is_pad.shape != (batch, horizon) or is_pad.dtype != torch.bool:
        raise ValueError(
            f"is_pad is {is_pad.dtype} of shape {tuple(is_pad.shape)}; expected a boolean tensor of shape "
            f"({batch}, {horizon}), true where an action is padding"
        )
    if values and is_pad.all():
        raise ValueError(
            f"is_pad marks all {batch} x {horizon} actions of this batch as padding, so the loss has no terms. "
            "is_pad must be true only where an action is padding; check that it is not inverted."
        )


def check_pad_rows(is_pad: Tensor, rows: int, horizon: int) -> None:
    """Check padding (n h) of whole data: each of its chunks has an action that counts, so that each batch has one.

    Raises:
        ValueError: the padding has another shape or dtype, or chunks are all padding. The message names the first.
    """
    check_pad(is_pad, rows, horizon, values=False)
    if empty := is_pad.all(1).nonzero()[:, 0].tolist():
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise ValueError(
            f"is_pad marks all {horizon} actions of {len(empty)} of {rows} chunks as padding: rows {shown}. Check that "
            "it is not inverted, or leave these chunks out of all arguments, as in actions[~is_pad.all(1)]."
        )


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating-point dtype, given as a dtype or by a name such as "bfloat16"."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in FLOATING:
        raise ValueError(
            f"dtype must be a floating-point torch dtype, one of {', '.join(map(str, FLOATING))}, got {dtype!r}"
        )
    return found


def as_device(device: torch.device | str | int) -> torch.device:
    """Return an available device, given as a device or by a name such as "cuda:0"."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        gpus = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise ValueError(
            f"device {device!r} can't be used ({str(error).splitlines()[0]}). torch {torch.__version__} finds {gpus} "
            "on this machine; device='cpu' always works."
        ) from error
    return found


def check_generator(generator: Any) -> None:
    """Check that a generator is a `torch.Generator` or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {described(generator)}; use torch.Generator().manual_seed(0), "
            "for example"
        )
