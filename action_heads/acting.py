"""Policies as what acts: the public door `sample`, and a head with an adapter behind it.

Axes: b batch, h horizon, a action, c condition, n tokens, P modulation values of all sites, T diffusion steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from action_heads._util.checks import check_condition, check_generator
from action_heads._util.conditions import Condition, Mask, on_host, parts
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.denoiser import Denoiser
from action_heads.diffusion.continuing import Continue
from action_heads.diffusion.draws import Generator
from action_heads.diffusion.samplers import Sampling
from action_heads.modulation import HeadModulation

if TYPE_CHECKING:
    from action_heads.runtime.compiled import CompiledPolicy


class Acts:
    """Makes chunks of conditions, here or on another computer.

    `sample` is for users. It makes one object of how to sample and one of what to continue, and these are passed on.
    """

    def sample(
        self,
        cond: Condition,
        *,
        mask: Mask = None,
        steps: int | None = None,
        sampler: str = "ddim",
        spacing: str = "trailing",
        generator: Generator = None,
        previous: Tensor | None = None,
        committed: int | None = None,
        start: float | None = None,
    ) -> Tensor:
        """Action chunks (b h a) in robot units, for conditions (b, c) or tokens (b, n, c).

        Every call checks that the condition and the chunk are finite and the frozen head is what it was.

        Args:
            steps: of the sampler, 10 if not given, 1 for "one_step". Each is one network evaluation; with "heun" two,
                and one for the last.
            sampler: "ddim" or "euler", which are the same; "ddpm", with fresh noise at each step; "dpmpp_2m" or "heun",
                of second order; "one_step", for heads and adapters trained where noise is high.
            spacing: which noise levels are visited: "trailing", or "leading" as in the paper's configuration.
            generator: makes the result reproducible. Of a remote policy it seeds one there, which draws other numbers.
            previous: (b, n, a), what is left of the last chunk in robot units: its first step is the new one's first.
            committed: so many of its steps are being executed; the new chunk begins with them and continues them
                (real-time chunking). On backbones that mix time, trained with `prefixes=True`.
            start: share of noise in (0, 1] to start from, over `previous` (warm start): fewer steps then do.
        """
        return self.act(cond, Sampling(sampler, steps, spacing), Continue(previous, committed, start), mask, generator)

    def act(
        self, cond: Condition, sampling: Sampling, continued: Continue, mask: Mask = None, generator: Generator = None
    ) -> Tensor:
        """Sample a chunk (b h a), as `sample` does."""
        raise NotImplementedError


class Policy(Acts, nn.Module):
    """A head and an adapter, which together make chunks: what is trained, compiled, or handed out by a bank."""

    own_normalizer: Normalizer | None  # statistics of the task's own actions, if there are any
    only_acts = "this policy only acts"

    def __init__(self, head: Denoiser, adapter: Adapter):
        super().__init__()
        self.head = head
        self.adapter = adapter

    @property
    def modulation(self) -> HeadModulation:
        """By the diffusion step and by the code: the head's, or the adapter's own if it relearns it."""
        return self.adapter.step or self.head.modulation_of(self.adapter.name)  # type: ignore[return-value]

    @property
    def normalizer(self) -> Normalizer:
        return self.head.normalizer if self.own_normalizer is None else self.own_normalizer

    def step_values(self, t: Tensor | None = None) -> Tensor:
        """Modulation by the diffusion step at t (...), or at all steps -> (... or T, P).

        The head's, or the adapter's own if it relearns it.
        """
        if self.head.frozen and self.adapter.step is None:
            table = self.head.step_table(self.adapter.name)
            return table if t is None else table[t]
        return self.head.step_values(self.modulation, t)

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        """Modulation by the condition (b, 1 or h, P), through the code and through the adapter's own map."""
        return self.adapter(cond, mask, self.modulation.steer)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """For the optimiser: the adapter's parameters (and the head's, if it is not frozen)."""
        self.head.assert_frozen()
        return (p for p in self.parameters() if p.requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> Policy:
        """As in torch, for the adapter; a frozen head stays frozen."""
        self.adapter.requires_grad_(requires_grad)
        self.head.requires_grad_(requires_grad)
        return self

    @torch.no_grad()
    def act(
        self, cond: Condition, sampling: Sampling, continued: Continue, mask: Mask = None, generator: Generator = None
    ) -> Tensor:
        head = self.head
        head.assert_frozen()
        self.check_cond(cond, mask, on_host(cond))
        check_generator(generator)
        plan = head.plan(sampling, continued.first_level(head))
        noise = head.noise(len(parts(cond)[0]), generator)
        x, prefix = continued.begin(self, noise, plan)
        values = self.modulate(cond, mask)
        x = head.denoise(self.step_values(), values, self.modulation, x, plan, generator, prefix)
        chunk = self.normalizer.unnormalize(x)
        if prefix:  # bit for bit what is being executed
            chunk[:, : prefix.given.shape[1]] = prefix.given
        self._assert_finite(chunk, values, cond, mask)
        return chunk

    def check_cond(self, cond: Condition, mask: Mask, values: bool) -> None:
        """Raise a ValueError that says what is wrong with a condition; its numbers are looked at if `values`."""
        check_condition(cond, mask, self.adapter.config.cond_dim, values)

    def _assert_finite(self, chunk: Tensor, values: Tensor, cond: Condition, mask: Mask) -> None:
        """Raise if a chunk must not reach a robot. On an accelerator this waits for it, as whoever acts does anyway.

        Modulation values (b, 1 or h, P) are looked at too: sampling clips, which makes a number of an infinity.
        """
        if torch.compiler.is_compiling() or is_capturing(chunk) or (chunk.isfinite().all() & values.isfinite().all()):
            return
        self.check_cond(cond, mask, values=True)
        raise ValueError(
            "the policy made NaN or infinite actions of a finite condition: the adapter's weights are damaged or its "
            "training diverged; load an earlier checkpoint"
        )

    def compile(self, method: str = "auto", *, dtype: torch.dtype | None = None) -> CompiledPolicy:  # pyright: ignore
        """The same policy with its frozen head compiled for its device: the same `sample`, the same chunks, sooner.

        `.compiled` says what was chosen, and what stood in the way of more. The adapter is shared, and may learn on.

        Args:
            method: "auto"; "native" (CPU, our own C++, compiled in 2 s); "packed" (CPU, no compiler); "inductor" (a C++
                compiler and minutes); "graph" (CUDA).
            dtype: of the head's network, torch.bfloat16 or torch.float32; the head's own if not given.
        """
        from action_heads.runtime.compiled import compile_policy

        return compile_policy(self, method, dtype)

    def refuse(self, *_: Any, **__: Any) -> Any:
        """Raise a RuntimeError in place of what only a policy that trains can do."""
        raise RuntimeError(self.only_acts)

    loss = forward = save_adapter = load_adapter = push_adapter = refuse

    def _used_parameters(self) -> list[nn.Parameter]:
        """What this policy computes with: the step modulations of other adapters are not."""
        return list({p for module in (self.head.backbone, self.modulation, self.adapter) for p in module.parameters()})

    @property
    def num_frozen(self) -> int:
        return sum(p.numel() for p in self._used_parameters() if not p.requires_grad)

    @property
    def num_trainable(self) -> int:
        return sum(p.numel() for p in self._used_parameters() if p.requires_grad)


def is_capturing(tensor: Tensor) -> bool:
    """Return whether a CUDA graph is being recorded, in which nothing may wait."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
