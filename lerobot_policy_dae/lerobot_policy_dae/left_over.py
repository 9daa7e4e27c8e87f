"""The remaining actions of the last chunk, which LeRobot's real-time chunking returns with padding.

Axes: b batch, n time steps of the remainder with padding, h horizon, d columns of the dataset's action.

LeRobot 0.6.1 takes the actions that are left in its queue, which may be none, and pads them with zeros to
`execution_horizon`. It does not say how many of them are real.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor


def check_left_over(previous: Tensor, rows: int, width: int, device: torch.device) -> Tensor:
    """Return the remainder (n d) or (b n d) as (b n d) in float32 on a device."""
    if not isinstance(previous, Tensor):
        raise ValueError(
            f"prev_chunk_left_over is a {type(previous).__name__}; expected a torch tensor (steps, {width})"
        )
    given = tuple(previous.shape)
    previous = previous.detach().to(device, torch.float32)
    previous = previous if previous.ndim == 3 else previous[None]
    if previous.ndim != 3 or previous.shape[-1] != width or len(previous) not in (1, rows):
        raise ValueError(
            f"prev_chunk_left_over has shape {given}; expected (steps, {width}) or ({rows}, steps, {width}). Pass the "
            "chunk that predict_action_chunk returned last, from the first action that is not executed yet."
        )
    return previous.expand(rows, -1, -1)


def check_chunk(chunk: Tensor) -> None:
    """Raise a ValueError unless a chunk (b h d) is finite; a rotation of zeros, for example, decodes to NaN."""
    if not chunk.isfinite().all():
        row, step, column = (~chunk.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"The policy made NaN or infinity, first in batch row {row}, time step {step}, column {column}. No action "
            "of this chunk is returned. Check the observations of this tick and the policy's weights."
        )


def check_delay(delay: int) -> int:
    """Return the delay in ticks as an integer of at least 0."""
    try:
        return max(0, operator.index(delay))
    except TypeError:
        raise ValueError(f"inference_delay must be an integer number of ticks, got {delay!r}. Round it up.") from None


def really_left(previous: Tensor, last: Tensor | None) -> list[int]:
    """Return how many time steps of each row (b n d) are the end of the last chunk (b h d). The rest is padding."""
    previous = previous.cpu()
    if not previous.isfinite().all():
        raise ValueError(
            "prev_chunk_left_over holds NaN or infinity. Pass the values that predict_action_chunk returned, unchanged."
        )
    last = None if last is None or len(last) != len(previous) or last.shape[2] != previous.shape[2] else last.cpu()
    return [_steps(row, None if last is None else last[i]) for i, row in enumerate(previous)]


def in_groups(left: list[int]) -> list[tuple[slice, int]]:
    """Return groups of rows that can be sampled together, each with its number of remaining time steps."""
    if len(set(left)) == 1:
        return [(slice(None), left[0])]
    return [(slice(i, i + 1), steps) for i, steps in enumerate(left)]


def _steps(previous: Tensor, last: Tensor | None) -> int:
    """Return how many of the first rows of (n d) are the end of the last chunk (h d). Only zeros follow them.

    Rows of zeros can also be real actions, such as deltas of an arm that stands still. The last chunk shows which they
    are. If it is unknown, as after a restart, zeros at the end count as padding.
    """
    zero = (previous == 0).all(-1)
    padding = int(zero.flip(0).int().cumprod(0).sum())
    least = len(previous) - padding
    if not padding or last is None:
        return least
    for end in range(len(last), 0, -1):  # Suppose that `end` actions remain.
        shown = min(end, len(previous))
        if shown <= least:
            break
        if torch.equal(previous[:shown], last[len(last) - end :][:shown]):
            return shown
    return least
