"""The base classes of policies: `sample` with its options, and a head with an adapter behind it.

Axes: b batch, h horizon, a action, c condition, n tokens (of `previous`: time steps), P modulation values of all sites,
T noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from action_heads._util.checks import check_condition, check_generator
from action_heads._util.conditions import Condition, Mask, on_host, parts
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.denoiser import Denoiser
from action_heads.diffusion.continuing import Continue, Prefix
from action_heads.diffusion.draws import Generator
from action_heads.diffusion.samplers import Sampling, Schedule
from action_heads.modulation import HeadModulation

if TYPE_CHECKING:
    from action_heads.runtime.compiled import CompiledPolicy


T = TypeVar("T", Sampling, Continue)


def options_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """Return a `Sampling` or a `Continue` with those of its fields that are given."""
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})


class Acts:
    """The interface of everything that makes chunks from conditions, on this computer or on another one.

    Users call `sample`. It collects its options in two objects and passes them to `act`, which subclasses implement.
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
        """Denoise action chunks for conditions.

        Every call checks that conditions and chunks are finite and that the frozen head is unchanged.

        Args:
            cond: conditions (b c), or tokens (b n c); a dict of these for an adapter of several sources.
            mask: (b n), true where a token counts; a dict for several sources.
            steps: number of denoising steps; if None 10, or 1 for "one_step". Each step evaluates the network once,
                with "heun" twice except for the last.
            sampler: "ddim" or its synonym "euler"; "ddpm", which adds noise in each step; "dpmpp_2m" or "heun", of
                second order; "one_step", for heads and adapters trained at high noise levels.
            spacing: the noise levels that are visited: "trailing", or "leading" as in the paper's configuration.
            generator: makes the result reproducible. A remote policy draws other random numbers from the same seed.
            previous: the rest of the previous chunk (b n a) in robot units, from the first time step of the new chunk.
            committed: number of time steps of `previous` that are being executed. The new chunk starts with them and
                continues them (real-time chunking). It needs a backbone that mixes time, trained with `prefixes=True`.
            start: share of noise in (0, 1] that is added to `previous` to start from (warm start), so that fewer
                steps suffice.

        Returns:
            Chunks (b h a) in robot units: metres, 6-D rotations, gripper -1 open to +1 closed, radians for joints.

        Raises:
            ValueError: an argument has a wrong shape, type or range, or the weights of the adapter are damaged so that
                actions would be NaN or infinite.
            RuntimeError: the frozen head was changed.

        Examples:
            >>> import torch
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import AdaLNZero
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(cond_dim=512))
            >>> cond = torch.randn(2, 512)
            >>> chunk = policy.sample(cond, steps=10, generator=torch.Generator().manual_seed(0))
            >>> chunk.shape
            torch.Size([2, 16, 10])
            >>> policy.sample(cond, steps=3, previous=chunk[:, 8:], start=0.3).shape  # after 8 executed actions
            torch.Size([2, 16, 10])
        """
        return self.act(cond, Sampling(sampler, steps, spacing), Continue(previous, committed, start), mask, generator)

    def act(
        self, cond: Condition, sampling: Sampling, continued: Continue, mask: Mask = None, generator: Generator = None
    ) -> Tensor:
        """Denoise chunks (b h a) as `sample` does, with its options in two objects."""
        raise NotImplementedError


class Policy(Acts, nn.Module):
    """A head with an adapter; the base class of policies that train, that are compiled, or that come from a bank."""

    own_normalizer: Normalizer | None  # statistics of the task's own actions; None for the head's
    only_acts = "this policy can only sample"

    def __init__(self, head: Denoiser, adapter: Adapter):
        super().__init__()
        self.head = head
        self.adapter = adapter

    @property
    def device(self) -> torch.device:
        """The device of the policy."""
        return self.head.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the head's weights. An adapter's are float32, unless the whole policy was cast."""
        return self.head.dtype

    @property
    def source(self) -> Any:
        """The policy that this one was compiled from, or the policy itself if it is not compiled."""
        return self

    @property
    def modulation(self) -> HeadModulation:
        """The modulation by noise level and by code: the head's, or the adapter's copy with `relearn_step`."""
        return self.adapter.step or self.head.modulation_of(self.adapter.name)  # type: ignore[return-value]

    @property
    def normalizer(self) -> Normalizer:
        """The normalizer of actions: the policy's own, or else the head's."""
        return self.head.normalizer if self.own_normalizer is None else self.own_normalizer

    def step_values(self, t: Tensor | None = None) -> Tensor:
        """Return the step modulation at noise levels t (...), or at all levels: (... P) or (T P)."""
        if self.head.frozen and self.adapter.step is None:
            table = self.head.step_table(self.adapter.name)
            return table if t is None else table[t]
        return self.head.step_values(self.modulation, t)

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        """Return the modulation by the condition (b, 1 or h, P)."""
        return self.adapter(cond, mask, self.modulation.steer)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters to optimise: the adapter's, and the head's if it is not frozen.

        Examples:
            >>> import torch
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import FiLM
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(FiLM(cond_dim=512))
            >>> optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-3)
        """
        self.head.assert_frozen()
        return (p for p in self.parameters() if p.requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> Policy:
        """Do as torch does for the adapter and a trainable head; a frozen head stays frozen."""
        self.adapter.requires_grad_(requires_grad)
        self.head.requires_grad_(requires_grad)
        self._freeze_unused()
        return self

    def _freeze_unused(self) -> None:
        """Freeze the modulation that a policy with a trainable head does not compute with.

        It is that of other mechanisms and, if the adapter has a copy of it, the head's own.
        """
        for modulation in () if self.head.frozen else self.head.modulation.values():
            if modulation is not self.modulation:
                modulation.requires_grad_(False)

    @torch.no_grad()
    def act(
        self, cond: Condition, sampling: Sampling, continued: Continue, mask: Mask = None, generator: Generator = None
    ) -> Tensor:
        """Denoise chunks (b h a) as `sample` does, with its options in two objects."""
        head = self.head
        head.assert_frozen()
        self.check_cond(cond, mask, on_host(cond))
        check_generator(generator)
        plan, chunks = head.plan(sampling, continued.first_level(head)), len(parts(cond)[0])
        with head.acting(chunks):
            x, prefix = continued.begin(self, head.noise(chunks, generator), plan)
            chunk, finite = self.denoise(x, plan, cond, mask, generator, prefix)
        if prefix:  # Normalising and back rounds, but the committed actions must be exactly those being executed.
            chunk[:, : prefix.given.shape[1]] = prefix.given
        self._assert_finite(finite, cond, mask)
        return chunk

    def denoise(
        self, x: Tensor, plan: Schedule, cond: Condition, mask: Mask, generator: Generator, prefix: Prefix | None
    ) -> tuple[Tensor, Tensor]:
        """Denoise chunks x (b h a) in network units to chunks in robot units. Also return whether they are finite."""
        values = self.modulate(cond, mask)
        x = self.head.denoise(self.step_values(), values, self.modulation, x, plan, generator, prefix)
        return self.finish(x, values)

    def finish(self, x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return chunks x (b h a) in robot units, and whether they are finite.

        Modulation values (b, 1 or h, P) count too, since the clipping of sampling turns infinity into a number.
        """
        chunk = self.normalizer.unnormalize(x)
        return chunk, chunk.isfinite().all() & values.isfinite().all()

    def check_cond(self, cond: Condition, mask: Mask, values: bool) -> None:
        """Raise a ValueError if a condition or its mask is invalid. `values` checks the numbers too."""
        check_condition(cond, mask, self.adapter.config.cond_dim, values)
        there, given = self.head.device, [*parts(cond), *(() if mask is None else parts(mask))]
        if elsewhere := [part.device for part in given if part.device != there]:
            raise ValueError(
                f"the condition or its mask is on {elsewhere[0]}, but the head is on {there}. Move it by .to('{there}')"
            )

    def _assert_finite(self, finite: Tensor, cond: Condition, mask: Mask) -> None:
        """Raise a ValueError if a chunk is not finite. This waits for an accelerator, as acting does anyway."""
        if torch.compiler.is_compiling() or is_capturing(finite) or finite:
            return
        self.check_cond(cond, mask, values=True)
        raise ValueError(
            "the policy computed NaN or infinite actions from a finite condition, so the adapter's weights are damaged "
            "or its training diverged. Load an earlier checkpoint."
        )

    def compile(self, method: str = "auto", *, dtype: torch.dtype | None = None) -> CompiledPolicy:  # pyright: ignore
        """Return a faster policy with the same `sample`, whose frozen head is compiled for its device.

        It gives the same chunks, up to rounding, and shares the adapter, which may train further.

        Args:
            method: "auto", "native" (CPU, our C++ kernels, compiled in 2 s), "packed" (CPU, needs no compiler),
                "inductor" (needs a C++ compiler and takes minutes), "graph" (CUDA graphs), "fused" (our Triton
                kernels in CUDA graphs, not measured on a GPU yet) or "eager" (not compiled).
            dtype: dtype of the head's network, torch.bfloat16 or torch.float32; the head's own if None.

        Returns:
            The policy. If the method cannot be used here, a slower one is. The attribute `compiled` names the method
            and the reason.

        Raises:
            ValueError: an unknown method, or another dtype.

        Examples:
            >>> import torch
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import AdaLNZero
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(cond_dim=512))
            >>> fast = policy.compile("packed")
            >>> fast.sample(torch.randn(1, 512)).shape
            torch.Size([1, 16, 10])
        """
        from action_heads.runtime.compiled import compile_policy

        return compile_policy(self, method, dtype)

    def refuse(self, *_: Any, **__: Any) -> Any:
        """Raise a RuntimeError, in place of methods that only a `ConditionedHead` has."""
        raise RuntimeError(self.only_acts)

    loss = forward = save_adapter = load_adapter = push_adapter = refuse

    def _used_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that this policy computes with, without the modulation of other mechanisms."""
        return list({p for module in (self.head.backbone, self.modulation, self.adapter) for p in module.parameters()})

    @property
    def num_frozen(self) -> int:
        """The number of frozen parameters that the policy computes with."""
        return sum(p.numel() for p in self._used_parameters() if not p.requires_grad)

    @property
    def num_trainable(self) -> int:
        """The number of parameters that train."""
        return sum(p.numel() for p in self._used_parameters() if p.requires_grad)


def is_capturing(tensor: Tensor) -> bool:
    """Return whether a CUDA graph is being captured, during which nothing may wait for the device."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
