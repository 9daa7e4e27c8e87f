"""How much an adapter trains, known before it is attached: for comparing adapters and heads at one size."""

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
WIDEST = limits.WIDTH  # units of a reading network: its own map alone then has 268 million parameters


def trained(head: ActionHead, adapter: type[Adapter], cond_dim: int | Mapping[str, int], **options: Any) -> int:
    """How many parameters such an adapter would train on a head, beside what trains of the head itself.

    It is built on the meta device, which knows shapes and holds no numbers. Options as of the adapter.
    """
    own = head.modulation_of(adapter.name)
    with torch.device("meta"):
        built = adapter(cond_dim, **options)
        head.build(built)
    relearned = own.parameters() if built.config.relearn_step else ()
    return sum(p.numel() for p in (*built.parameters(), *relearned))


def match_trainable(
    head: ActionHead, adapter: type[A], cond_dim: int | Mapping[str, int], target: int, **options: Any
) -> A:
    """The adapter that trains as near to `target` parameters on a head as its `hidden_dim` can bring it.

    Args:
        adapter: a class, such as `FiLM`.
        options: of the adapter, all but `hidden_dim`.
    """

    def count(hidden_dim: int) -> int:
        return trained(head, adapter, cond_dim, hidden_dim=hidden_dim, **options)

    least, most = count(1), count(WIDEST)
    if not least <= target <= most:
        given = {**options, "hidden_dim": 1}
        paths = THROUGH if head.config.coded else ("blocks",)
        by_path = {path: trained(head, adapter, cond_dim, **given | {"through": path}) for path in paths}
        raise ValueError(
            f"{adapter.name} can't train {target:,} parameters on {head.config.name}: so it trains {least:,} to "
            f"{most:,} (hidden_dim 1 to {WIDEST:,}); at least "
            + ", ".join(f"{smallest:,} with through={path!r}" for path, smallest in by_path.items())
        )
    above = bisect_left(range(1, WIDEST), target, key=count) + 1
    nearest = min((max(1, above - 1), above), key=lambda hidden_dim: abs(count(hidden_dim) - target))
    return adapter(cond_dim, hidden_dim=nearest, **options)
