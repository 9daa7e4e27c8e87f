"""Parameter counts of adapters before they are attached, to compare adapters and heads at the same size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from action_heads._util import limits
from action_heads.adapters import Adapter
from action_heads.adapters.config import THROUGH
from action_heads.head import ActionHead

A = TypeVar("A", bound=Adapter)
WIDEST = limits.WIDTH  # the largest hidden_dim; one layer then has 268 million parameters


def trained(head: ActionHead, adapter: type[Adapter], cond_dim: int | Mapping[str, int], **options: Any) -> int:
    """Return the number of parameters that an adapter would train on a head.

    The adapter is built on the meta device, so this takes no memory. Parameters of a head that trains along are not
    counted.

    Args:
        head: the head.
        adapter: an adapter class, such as `FiLM`.
        cond_dim: width of the condition, or widths by source.
        **options: other options of the adapter.

    Examples:
        >>> from action_heads import ActionHead
        >>> from action_heads.adapters import FiLM
        >>> from action_heads.counts import trained
        >>> trained(ActionHead.from_pretrained("dae/mixer-5m-fk"), FiLM, 512, through="code", hidden_dim=64)
        41152
    """
    with torch.device("meta"):
        built = adapter(cond_dim, **options)
        head.build(built)
    return sum(p.numel() for p in built.parameters())


def match_trainable(
    head: ActionHead, adapter: type[A], cond_dim: int | Mapping[str, int], target: int, **options: Any
) -> A:
    """Return an adapter that trains about `target` parameters on a head.

    `hidden_dim` is chosen so that the number comes as near to the target as it can.

    Args:
        head: the head.
        adapter: an adapter class, such as `FiLM`.
        cond_dim: width of the condition, or widths by source.
        target: number of trained parameters.
        **options: other options of the adapter, except `hidden_dim`.

    Raises:
        ValueError: no `hidden_dim` comes near the target. The message gives the range that can be reached.

    Examples:
        >>> from action_heads import ActionHead
        >>> from action_heads.adapters import FiLM
        >>> from action_heads.counts import match_trainable
        >>> head = ActionHead.from_pretrained("dae/mixer-5m-fk")
        >>> adapter = match_trainable(head, FiLM, 512, 100_000, through="code")
        >>> adapter.config.hidden_dim, head.attach(adapter).num_trainable
        (139, 99727)
    """

    def count(hidden_dim: int) -> int:
        return trained(head, adapter, cond_dim, hidden_dim=hidden_dim, **options)

    least, most = count(1), count(WIDEST)
    if not least <= target <= most:
        given = {**options, "hidden_dim": 1}
        paths = THROUGH if head.config.coded else ("blocks",)
        by_path = {path: trained(head, adapter, cond_dim, **given | {"through": path}) for path in paths}
        raise ValueError(
            f"{adapter.name} cannot train {target:,} parameters on {head.config.name}. With these options it trains "
            f"{least:,} to {most:,} (hidden_dim from 1 to {WIDEST:,}). The smallest numbers are "
            + ", ".join(f"{smallest:,} with through={path!r}" for path, smallest in by_path.items())
        )
    above = bisect_left(range(1, WIDEST), target, key=count) + 1
    nearest = min((max(1, above - 1), above), key=lambda hidden_dim: abs(count(hidden_dim) - target))
    return adapter(cond_dim, hidden_dim=nearest, **options)
