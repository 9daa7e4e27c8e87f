"""Many tasks on one head: a batch in which every row may have an adapter of its own.

Axes: n adapters, b batch, h horizon, a action, P modulation values of all sites.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.conditions import Condition, Mask, parts
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.head import ActionHead
from action_heads.policy import ConditionedHead


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
        self._names: list[str] = []
        self._weights: dict[str, Tensor] = {}  # (n, ...) by name
        self._template: Adapter | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def add(self, name: str, policy: ConditionedHead | str | Path, **kwargs) -> None:
        """Take up a trained adapter, or swap the one of that name; options as of `ActionHead.load_adapter`.

        The weights are copied: training the policy on changes nothing here.
        """
        if not isinstance(policy, ConditionedHead):
            policy = self.head.load_adapter(policy, **kwargs)
        self._check(name, policy)
        weights = own_weights(policy)
        if self._template is None:
            self._template = copy.deepcopy(policy.adapter).requires_grad_(False).eval()
        if name in self._names:
            at = self._names.index(name)
            for key, value in weights.items():
                self._weights[key][at] = value
            return
        self._names.append(name)
        self._weights = {
            key: torch.cat([self._weights[key], value[None]]) if key in self._weights else value[None].clone()
            for key, value in weights.items()
        }

    def remove(self, name: str) -> None:
        """Forget an adapter. Policies made by `on` keep what they copied."""
        at = self._index(name)
        self._names.pop(at)
        self._weights = {key: torch.cat([w[:at], w[at + 1 :]]) for key, w in self._weights.items()}
        if not self._names:
            self._template, self._weights = None, {}

    def on(self, tasks: Sequence[str]) -> ConditionedHead:
        """A policy for batches of these tasks, one a row: to `sample` with, not to train."""
        if not tasks or isinstance(tasks, str):
            raise ValueError(f"tasks are names, one a row of the batch, got {tasks!r}")
        rows = torch.tensor([self._index(task) for task in tasks], device=self.head.objective.alpha.device)
        assert self._template is not None
        return RowPolicy(self.head, self._template, {key: w[rows] for key, w in self._weights.items()})

    def _index(self, name: str) -> int:
        if name not in self._names:
            raise ValueError(f"no adapter for {name!r}; the bank has {', '.join(self._names) or 'none yet'}: add it")
        return self._names.index(name)

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


def own_weights(policy: ConditionedHead) -> dict[str, Tensor]:
    """Parameters and buffers of an adapter, and the statistics of its actions."""
    state = {f"adapter.{name}": value.detach() for name, value in policy.adapter.state_dict().items()}
    return state | {"offset": policy.normalizer.offset[None], "scale": policy.normalizer.scale[None]}


class RowPolicy(ConditionedHead):
    """A policy whose adapter differs from row to row. It has nothing to train. One thread at a time may use it."""

    def __init__(self, head: ActionHead, template: Adapter, weights: dict[str, Tensor]):
        nn.Module.__init__(self)
        # A copy: rows are computed by lending it their weights for a moment, which another thread must not see.
        self.head, self.adapter = head, copy.deepcopy(template)
        self.own_normalizer = RowNormalizer(weights["offset"], weights["scale"])
        self._weights = {key[len("adapter.") :]: w for key, w in weights.items() if key.startswith("adapter.")}
        self._rows = len(weights["scale"])
        self._looked_at = set()
        self.eval()

    def refuse(self, *_, **__) -> Any:
        raise RuntimeError("a policy of a bank only acts: train, save and load each adapter by a policy of its own")

    loss = forward = save_adapter = load_adapter = refuse

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        """As of any policy (b, 1 or h, P); row i through adapter i."""

        def row(weights: dict[str, Tensor], cond: Condition, mask: Mask) -> Tensor:
            one = (batched(cond), batched(mask), self.modulation.steer)
            return torch.func.functional_call(self.adapter, weights, one)[0]

        return torch.func.vmap(row, in_dims=(0, 0, None if mask is None else 0))(self._weights, cond, mask)

    def _check_cond(self, cond: Condition, mask: Mask, values: bool, batch: int | None = None) -> None:
        super()._check_cond(cond, mask, values, batch)
        if (rows := len(parts(cond)[0])) != self._rows:
            raise ValueError(f"{self._rows} tasks came with {rows} conditions: one task a row")


def batched(cond: Any) -> Any:
    """A condition or mask of one row as a batch of one."""
    if isinstance(cond, Mapping):
        return {name: part[None] for name, part in cond.items()}
    return None if cond is None else cond[None]


class RowNormalizer(Normalizer):
    """Statistics (b 1 a) of each row's own."""

    def __init__(self, offset: Tensor, scale: Tensor):
        nn.Module.__init__(self)  # they were checked where they were fitted
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)

    def extra_repr(self) -> str:
        return f"{len(self.scale)} rows"
