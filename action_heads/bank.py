"""`AdapterBank`: many adapters on one head, one for each row of a batch.

Axes: b batch, h horizon, a action, c condition, P modulation values of all sites.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads._util.checks import check_type
from action_heads._util.conditions import Condition, Mask, parts
from action_heads.acting import Policy
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.adapters.config import differing
from action_heads.head import ActionHead
from action_heads.policy import ConditionedHead

Weights = dict[str, Tensor]


class AdapterBank:
    """A collection of adapters on one head, by task name, for batches whose rows are different tasks.

    All adapters must have the same settings. The head denoises the whole batch at once. The adapters' weights are
    copied and multiplied row by row, so many small adapters (`through="code"`) cost about as much as one, and large
    ones take memory for each row.

    Args:
        head: the head of all adapters.

    Examples:
        >>> import torch
        >>> from action_heads import ActionHead, AdapterBank
        >>> from action_heads.adapters import AdaLNZero
        >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
        >>> bank = AdapterBank(head)
        >>> for task in ("stack", "lift"):
        ...     bank.add(task, head.attach(AdaLNZero(cond_dim=512, through="code")))
        >>> bank.on(["stack", "lift", "stack"]).sample(torch.randn(3, 512)).shape  # one task for each row
        torch.Size([3, 16, 10])
    """

    def __init__(self, head: ActionHead):
        check_type("head", head, ActionHead, "Load one with ActionHead.from_pretrained(name).")
        self.head = head
        self._adapters: dict[str, tuple[Weights, Weights]] = {}  # the weights and the action statistics of each
        self._template: Adapter | None = None
        self._stacked: tuple[Any, Weights, Weights] | None = None  # of the last call of `on`

    def __len__(self) -> int:
        return len(self._adapters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __repr__(self) -> str:
        return f"AdapterBank({self.head.config.name}: {', '.join(self.names) or 'no adapter yet'})"

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(self._adapters)

    def add(self, name: str, policy: Policy | str | Path, **kwargs: Any) -> None:
        """Add a trained adapter, or replace the one of that name.

        The weights are copied, so training the policy further does not change the bank.

        Args:
            name: name of the task.
            policy: the policy, compiled or not, or the folder or Hub id of a saved adapter.
            **kwargs: options for the Hub, as in `ActionHead.load_adapter`.

        Raises:
            ValueError: the adapter has another head or other settings than the bank, or trains parts of the head, or
                there is no such adapter.
        """
        if isinstance(policy, str | Path):
            policy = self.head.load_adapter(policy, **kwargs)
        policy = policy.source if isinstance(policy, Policy) else policy
        if not isinstance(policy, ConditionedHead):
            raise ValueError(
                f"the adapter for {name!r} must be a policy that head.attach(adapter) or head.load_adapter(folder) "
                f"returned, or the folder or Hub id of a saved adapter; got {type(policy).__name__}"
            )
        self._check(name, policy)
        if self._template is None:
            self._template = copy.deepcopy(policy.adapter).requires_grad_(False).eval()
        self._adapters[name] = copied(policy.adapter.state_dict()), copied(policy.normalizer.state_dict())
        self._stacked = None

    def remove(self, name: str) -> None:
        """Remove an adapter. Policies that `on` returned keep their copies."""
        del self._adapters[self._known(name)]
        self._stacked = None
        if not self._adapters:
            self._template = None

    def on(self, tasks: Sequence[str]) -> RowPolicy:
        """Return a policy for batches of these tasks, one for each row. It can `sample`, but not train.

        The policy is on the head's device. The weights of the last call stay stacked, so that calling it again with the
        same tasks copies none.

        Raises:
            ValueError: there are no tasks, or one is not in the bank.
        """
        if not tasks or isinstance(tasks, str):
            raise ValueError(f"tasks must be a list of names, one for each row of the batch; got {tasks!r}")
        rows, last = [self._adapters[self._known(task)] for task in tasks], self._stacked
        key = (tuple(tasks), self.head.device)
        if last is None or last[0] != key:
            weights, statistics = (stacked(part, self.head.device) for part in zip(*rows, strict=True))
            last = self._stacked = key, weights, statistics
        assert self._template is not None
        return RowPolicy(self.head, self._template, last[1], RowNormalizer(**last[2]))

    def _known(self, name: str) -> str:
        if name not in self._adapters:
            raise ValueError(
                f"the bank has no adapter for {name!r}. It has {', '.join(self.names) or 'none yet'}. Add it with "
                "bank.add(name, policy)."
            )
        return name

    def _check(self, name: str, policy: ConditionedHead) -> None:
        if policy.head is not self.head and policy.head.fingerprint() != self.head.fingerprint():
            raise ValueError(
                f"the adapter for {name!r} belongs to the head {policy.head.config.name} "
                f"({policy.head.fingerprint()}), but this bank has the head {self.head.config.name} "
                f"({self.head.fingerprint()}). Use one bank for each head."
            )
        if policy.head.original is not policy.head or policy.adapter.step is not None:
            raise ValueError(
                f"the adapter for {name!r} trains parts of its head (relearn_step, or a reshaped head), which the rows "
                "of one batch cannot share. Train it without them."
            )
        if self._template is not None and policy.adapter.config != self._template.config:
            raise ValueError(
                f"the adapter for {name!r} has {differing(policy.adapter.config, self._template.config)} in the other "
                "adapters of this bank. Use one bank for each setting."
            )


def copied(state: Mapping[str, Tensor]) -> Weights:
    """Return copies of all tensors, detached."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def stacked(rows: Sequence[Weights], device: torch.device) -> Weights:
    """Stack the tensors (...) of all rows to (b ...) on a device, by name."""
    return {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}


class RowPolicy(Policy):
    """A policy with a different adapter for each row. It cannot train, and only one thread at a time may use it."""

    only_acts = "a policy of an AdapterBank can only sample. Train, save and load each adapter with its own policy."

    def __init__(self, head: ActionHead, template: Adapter, weights: Weights, statistics: RowNormalizer):
        # `functional_call` replaces the weights of this copy for a moment, which no other thread must see.
        super().__init__(head, copy.deepcopy(template).to(head.device))
        self.own_normalizer = statistics
        # No buffers, since there are dots in their names. Policies of the same tasks share them.
        self._weights = weights
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RowPolicy:
        """Do what `to` and others do, and give the weights of the rows the device and dtype of the adapter's."""
        super()._apply(fn, recurse)
        like = self.adapter.state_dict()  # its statistics keep float32
        self._weights = {name: weight.to(like[name]) for name, weight in self._weights.items()}
        return self

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        """Return the modulation by the condition (b, 1 or h, P), with adapter i for row i."""

        def row(weights: Weights, cond: Condition, mask: Mask) -> Tensor:
            one = (batched(cond), batched(mask), self.modulation.steer)
            return torch.func.functional_call(self.adapter, weights, one)[0]

        return torch.func.vmap(row, in_dims=(0, 0, None if mask is None else 0))(self._weights, cond, mask)

    def check_cond(self, cond: Condition, mask: Mask, values: bool) -> None:
        """Check the conditions, and that there are as many as tasks."""
        super().check_cond(cond, mask, values)
        if (given := len(parts(cond)[0])) != (rows := len(self.normalizer.scale)):
            raise ValueError(f"{rows} tasks came with {given} conditions; pass one condition for each task")


def batched(cond: Any) -> Any:
    """Add a batch axis to the condition or mask of one row."""
    if isinstance(cond, Mapping):
        return {name: part[None] for name, part in cond.items()}
    return None if cond is None else cond[None]


class RowNormalizer(Normalizer):
    """A normalizer with different statistics (b a) for each row of chunks (b h a)."""

    def __init__(self, offset: Tensor, scale: Tensor):
        super().__init__(offset[:, None], scale[:, None])

    def extra_repr(self) -> str:
        """Return the number of rows."""
        return f"{len(self.scale)} rows"
