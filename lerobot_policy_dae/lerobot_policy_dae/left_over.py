"""The remainder of the last chunk, as LeRobot's real-time chunking hands it back with padding.

Axes: b batch, n steps as handed over, h horizon, d columns of the dataset's action.

LeRobot 0.6.1 takes what its queue still holds, the end of the last chunk or nothing of it, and pads it with zeros to
`execution_horizon`. It does not say how many steps are real.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor


def check_left_over(previous: Tensor, rows: int, width: int, device: torch.device) -> Tensor:
    """Return the remainder (n d) or (b n d) as (b n d) in float32 on a device."""
    if not isinstance(previous, Tensor):
        raise ValueError(
            f"prev_chunk_left_over is a {type(previous).__name__}, expected a torch tensor (steps, {width})"
        )
    given = tuple(previous.shape)
    previous = previous.detach().to(device, torch.float32)
    previous = previous if previous.ndim == 3 else previous[None]
    if previous.ndim != 3 or previous.shape[-1] != width or len(previous) not in (1, rows):
        raise ValueError(
            f"prev_chunk_left_over has shape {given}, expected (steps, {width}) or ({rows}, steps, {width}): what "
            "predict_action_chunk returned last, from the first step that is not executed yet"
        )
    return previous.expand(rows, -1, -1)


def check_chunk(chunk: Tensor) -> None:
    """Raise a ValueError unless a chunk (b h d) is finite; a rotation of zeros, for example, decodes to NaN."""
    if not chunk.isfinite().all():
        row, step, column = (~chunk.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the policy made NaN or infinity, first in batch row {row}, step {step}, column {column}: no action of "
            "this chunk is given out. Look at the observations of this tick, and at the policy's weights"
        )


def check_delay(delay: int) -> int:
    """Return the delay in ticks as an integer of at least 0."""
    try:
        return max(0, operator.index(delay))
    except TypeError:
        raise ValueError(f"inference_delay is a number of ticks, an integer, got {delay!r}: round it up") from None


def really_left(previous: Tensor, last: Tensor | None) -> list[int]:
    """Return how many steps of each row (b n d) are the end of the last chunk (b h d). The rest is padding."""
    previous = previous.cpu()
    if not previous.isfinite().all():
        raise ValueError("prev_chunk_left_over holds NaN or infinity: pass on what predict_action_chunk returned last")
    last = None if last is None or len(last) != len(previous) or last.shape[2] != previous.shape[2] else last.cpu()
    return [_steps(row, None if last is None else last[i]) for i, row in enumerate(previous)]


def in_groups(left: list[int]) -> list[tuple[slice, int]]:
    """Return groups of rows that can be sampled together, each with its number of remaining steps."""
    if len(set(left)) == 1:
        return [(slice(None), left[0])]
    return [(slice(i, i + 1), steps) for i, steps in enumerate(left)]


def _steps(previous: Tensor, last: Tensor | None) -> int:
    """Return how many first steps of (n d) end the last chunk (h d), with only zeros behind them.

    Rows of zeros may be real too, as deltas of an arm that stands still: the chunk says so. One that is not known, as
    after a restart, can't, and then rows of zeros at the end are taken for padding.
    """
    zero = (previous == 0).all(-1)
    padding = int(zero.flip(0).int().cumprod(0).sum())
    least = len(previous) - padding
    if not padding or last is None:
        return least
    for end in range(len(last), 0, -1):  # what is left, if it is so many steps
        shown = min(end, len(previous))
        if shown <= least:
            break
        if torch.equal(previous[:shown], last[len(last) - end :][:shown]):
            return shown
    return least
