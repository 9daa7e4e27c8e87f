"""Embeddings of earlier observations, to train a policy for an encoder that is slower than a tick.

Axes: n rows of a recording, in the order of time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from action_heads._util.checks import check_generator


def earlier_rows(
    episode_lengths: Sequence[int] | Tensor, max_age: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw for every row an earlier row (or itself) of its episode, whose embedding it is trained with.

    `SlowEncoder` gives a policy embeddings of earlier ticks beside the state of this tick. Training on such pairs makes
    a policy robust to it. All ages from 0 to `max_age` are equally likely; rows near the start of an episode, where
    there are fewer, take its first row in place of those that are missing.

    Args:
        episode_lengths: number of rows of each episode.
        max_age: largest age in rows.
        generator: makes the result reproducible.

    Returns:
        Row numbers (n,).

    Raises:
        ValueError: `max_age` is below 0, or an episode has no row.

    Examples:
        >>> import torch
        >>> from action_heads.vlm import earlier_rows
        >>> seen = earlier_rows([3, 3], max_age=2, generator=torch.Generator().manual_seed(0))
        >>> seen.shape
        torch.Size([6])
        >>> # fit(policy, actions, {"tokens": cached.at(seen), "seen_at": state[seen], "state": state})
    """
    check_generator(generator)
    lengths = torch.as_tensor(episode_lengths)
    if max_age < 0:
        raise ValueError(f"max_age must be 0 rows or more, got {max_age}")
    if lengths.ndim != 1 or not len(lengths) or lengths.min() < 1:
        raise ValueError(f"episode_lengths must be a list of positive numbers of rows, got {lengths.tolist()!r:.80}")
    rows = torch.arange(int(lengths.sum()))
    first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    ages = torch.randint(max_age + 1, rows.shape, generator=generator)
    return torch.maximum(rows - ages, first)
