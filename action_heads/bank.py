"""Many tasks on one head: a batch in which every row may have an adapter of its own.

Axes: b batch, h horizon, a action, P modulation values of all sites.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask, parts
from action_heads.acting import Policy
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.head import ActionHead
from action_heads.policy import ConditionedHead

Weights = dict[str, Tensor]


class AdapterBank:
    """Adapters of one shape on one head, by the name of their task.

        bank = AdapterBank(head)
        bank.add("stack", "me/stack")  # a policy, a folder or a Hub id; a name added again is swapped
        chunk = bank.on(["stack", "lift", "stack"]).sample(cond)  # one task a row

    The head computes a batch as ever; adapters are computed row by row in one batched product, with weights that are
    copied for the batch. So small adapters (`through="code"`) cost nearly what one does; large ones cost their memory.
    """

    def __init__(self, head: ActionHead):
        self.head = head
        self._adapters: dict[str, tuple[Weights, Weights]] = {}  # weights of each, and statistics of its actions
        self._template: Adapter | None = None

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    def add(self, name: str, policy: ConditionedHead | str | Path, **kwargs) -> None:
        """Take up a trained adapter, or swap the one of that name; options as of `ActionHead.load_adapter`.

        The weights are copied: training the policy on changes nothing here.
        """
        if isinstance(policy, str | Path):
            policy = self.head.load_adapter(policy, **kwargs)
        self._check(name, policy)
        if self._template is None:
            self._template = copy.deepcopy(policy.adapter).requires_grad_(False).eval()
        self._adapters[name] = copied(policy.adapter.state_dict()), copied(policy.normalizer.state_dict())

    def remove(self, name: str) -> None:
        """Forget an adapter. Policies made by `on` keep what they copied."""
        del self._adapters[self._known(name)]
        if not self._adapters:
            self._template = None

    def on(self, tasks: Sequence[str]) -> RowPolicy:
        """A policy for batches of these tasks, one a row: to `sample` with, not to train."""
        if not tasks or isinstance(tasks, str):
            raise ValueError(f"tasks are names, one a row of the batch, got {tasks!r}")
        weights, statistics = zip(*(self._adapters[self._known(task)] for task in tasks), strict=True)
        assert self._template is not None
        return RowPolicy(self.head, self._template, stacked(weights), RowNormalizer(**stacked(statistics)))

    def _known(self, name: str) -> str:
        if name not in self._adapters:
            raise ValueError(f"no adapter for {name!r}; the bank has {', '.join(self.names) or 'none yet'}: add it")
        return name

    def _check(self, name: str, policy: ConditionedHead) -> None:
        if policy.head is not self.head and policy.head.fingerprint() != self.head.fingerprint():
            raise ValueError(
                f"the adapter for {name!r} belongs to {policy.head.config.name} ({policy.head.fingerprint()}), this "
                f"bank to {self.head.config.name} ({self.head.fingerprint()}): all share one head"
            )
        if policy.head.original is not policy.head or policy.adapter.step is not None:
            raise ValueError(
                f"the adapter for {name!r} has parts of a head of its own (relearn_step, or a reshaped head), which "
                "rows of one batch can't share: train it without"
            )
        if self._template is not None and policy.adapter.config != self._template.config:
            raise ValueError(
                f"the adapter for {name!r} is {policy.adapter.config}, those of this bank are "
                f"{self._template.config}: keep one bank for each shape"
            )


def copied(state: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def stacked(rows: Sequence[Weights]) -> Weights:
    """Tensors (...) of each row -> (b, ...) by name."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class RowPolicy(Policy):
    """A policy whose adapter differs from row to row. It has nothing to train. One thread at a time may use it."""

    only_acts = "a policy of a bank only acts: train, save and load each adapter by a policy of its own"

    def __init__(self, head: ActionHead, template: Adapter, weights: Weights, statistics: RowNormalizer):
        # A copy: rows are computed by lending it their weights for a moment, which another thread must not see.
        super().__init__(head, copy.deepcopy(template))
        self.own_normalizer = statistics
        self._weights = weights
        self.eval()

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        """As of any policy (b, 1 or h, P); row i through adapter i."""

        def row(weights: Weights, cond: Condition, mask: Mask) -> Tensor:
            one = (batched(cond), batched(mask), self.modulation.steer)
            return torch.func.functional_call(self.adapter, weights, one)[0]

        return torch.func.vmap(row, in_dims=(0, 0, None if mask is None else 0))(self._weights, cond, mask)

    def check_cond(self, cond: Condition, mask: Mask, values: bool) -> None:
        super().check_cond(cond, mask, values)
        if (given := len(parts(cond)[0])) != (rows := len(self.normalizer.scale)):
            raise ValueError(f"{rows} tasks came with {given} conditions: one task a row")


def batched(cond: Any) -> Any:
    """A condition or mask of one row as a batch of one."""
    if isinstance(cond, Mapping):
        return {name: part[None] for name, part in cond.items()}
    return None if cond is None else cond[None]


class RowNormalizer(Normalizer):
    """Statistics (b a) of each row's own, for chunks (b h a)."""

    def __init__(self, offset: Tensor, scale: Tensor):
        super().__init__(offset[:, None], scale[:, None])

    def extra_repr(self) -> str:
        return f"{len(self.scale)} rows"
