"""`Denoiser`: the computation of a head, from noise and modulation values to a chunk.

Axes: b batch, h horizon, a action, P modulation values of all sites, T noise levels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from action_heads._util.building import keep_values
from action_heads._util.checks import check_count, check_generator
from action_heads._util.tables import kept
from action_heads.diffusion import samplers
from action_heads.diffusion.noise_schedule import noise_path
from action_heads.diffusion.samplers import Sampling
from action_heads.frozen import Freezable
from action_heads.modulation import HeadModulation

if TYPE_CHECKING:
    from action_heads.actions.normalize import Normalizer
    from action_heads.backbones import Backbone
    from action_heads.config import HeadConfig
    from action_heads.diffusion.continuing import Prefix
    from action_heads.diffusion.objectives import Objective


class Denoiser(Freezable):
    """A backbone with its own modulation, objective and normalizer, and the denoising loop.

    `ActionHead` is a denoiser that can be built, loaded and published. The denoisers of `action_heads.runtime` share
    the parts of a head and compute `predict` or `denoise` faster.
    """

    def __init__(
        self,
        config: HeadConfig,
        backbone: Backbone,
        modulation: nn.ModuleDict,
        objective: Objective,
        normalizer: Normalizer,
    ):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.modulation = modulation
        self.objective = objective
        self.normalizer = normalizer
        self._plans: dict[Any, tuple[samplers.Schedule, int]] = {}
        self._tables: dict[Any, tuple[Tensor, int]] = {}
        keep_values(self)

    @property
    def device(self) -> torch.device:
        """The device of the head."""
        return next(self.backbone.out.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's weights. Statistics and noise levels are always float32."""
        return next(self.backbone.out.parameters()).dtype

    def acting(self, chunks: int) -> AbstractContextManager[None]:
        """Return a context to denoise so many chunks in. Heads that compute faster may need one."""
        return nullcontext()

    def fingerprint(self) -> str:
        """Return 32 hex digits that identify the weights, the statistics and their meaning."""
        raise NotImplementedError

    def modulation_of(self, mechanism: str) -> HeadModulation:
        """Return the head's own modulation for a mechanism, or raise a ValueError if it was not pretrained for it."""
        if mechanism not in self.modulation:
            raise ValueError(
                f"{self.config.name} was pretrained for {', '.join(self.modulation)}, not for {mechanism!r}. Choose "
                "one of these adapters, or pretrain a head with --mechanisms."
            )
        return self.modulation[mechanism]  # type: ignore[return-value]

    def step_values(self, modulation: HeadModulation, t: Tensor | None = None) -> Tensor:
        """Compute the step modulation at noise levels t (...), or at all levels: (... P) or (T P)."""
        steps = torch.arange(self.config.objective.train_steps, device=self.device)
        return modulation(self.backbone.step(steps), steps if t is None else t)

    def step_table(self, mechanism: str) -> Tensor:
        """Return a frozen head's step modulation at every noise level (T P), computed once."""
        modulation = self.modulation_of(mechanism)
        weight = modulation.expand.weight
        key = (mechanism, weight.device, weight.dtype)
        return kept(self._tables, key, weight.device, lambda: self.step_values(modulation))

    def predict(self, x_t: Tensor, values: Tensor, modulation: HeadModulation) -> Tensor:
        """Predict the objective's target (b h a) for noisy chunks (b h a) under modulation values (b, 1 or h, P)."""
        dtype = self.dtype
        return self.backbone(x_t.to(dtype), modulation.at_sites(values.to(dtype))).float()

    def denoise(
        self,
        table: Tensor,
        cond: Tensor | None,
        modulation: HeadModulation,
        noise: Tensor,
        plan: samplers.Schedule,
        generator: torch.Generator | None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Denoise chunks (b h a) in network units by a sampler's plan.

        Args:
            table: step modulation at every noise level (T P).
            cond: modulation by the condition (b, 1 or h, P); None for unconditional chunks.
            modulation: the modulation for the mechanism of these values.
            noise: noisy chunks to start from (b h a).
            plan: the sampler's plan.
            generator: generator of the noise that the sampler adds.
            prefix: committed first actions, shown to the network in every step.
        """
        steps = table[plan.timesteps][:, None, None]
        if prefix:
            steps = prefix.step_values(table, steps, self.config.horizon)
        by_step = steps.unbind()  # The views are made once, outside the loop.
        shares = list(zip(*(share.unbind() for share in self.objective.shares(plan.timesteps)), strict=True))

        def predict_x0(x: Tensor, i: int) -> Tensor:
            x = prefix.hold(x) if prefix else x
            values = by_step[i] if cond is None else by_step[i] + cond
            return self.objective.clean(self.predict(x, values, modulation), x, *shares[i])

        return samplers.run(plan, noise, predict_x0, lambda: self.noise(len(noise), generator))

    def plan(self, sampling: Sampling, first_level: int | None = None) -> samplers.Schedule:
        """Return a sampler's plan on this head's device, made once.

        `first_level` is the noisiest level of a warm start: the chunk gets noise of the level `timesteps[0]`.
        """
        name, steps, spacing, device = sampling.sampler, sampling.steps, sampling.spacing, self.device

        def make() -> samplers.Schedule:
            path = noise_path(self.config.objective)
            return samplers.schedule(name, path, steps, spacing=spacing, first_level=first_level).to(device)

        return kept(self._plans, (name, steps, spacing, first_level, device), device, make)

    def noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw standard normal noise (b h a), from which sampling starts."""
        shape = batch, self.config.horizon, self.config.space.dim
        return self.objective.random_noise(shape, generator, self.device)

    @torch.no_grad()
    def sample(
        self,
        batch: int,
        *,
        mechanism: str | None = None,
        steps: int | None = None,
        sampler: str = "ddim",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample unconditional chunks (b h a) in robot units: motion as in Stage 1, before any task.

        Args:
            batch: number of chunks.
            mechanism: the mechanism whose step modulation is used; the head's first if None.
            steps: number of denoising steps, as in `ConditionedHead.sample`.
            sampler: as in `ConditionedHead.sample`.
            generator: makes the result reproducible.

        Raises:
            ValueError: an argument is invalid, or the head does not support the mechanism.
            RuntimeError: the frozen head was changed.

        Examples:
            >>> from action_heads import ActionHead
            >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
            >>> head.sample(8).shape
            torch.Size([8, 16, 10])
        """
        self.assert_frozen()
        check_count("batch", batch)
        check_generator(generator)
        modulation = self.modulation_of(mechanism or self.config.mechanisms[0])
        noise, plan = self.noise(batch, generator), self.plan(Sampling(sampler, steps))
        x = self.denoise(self.step_values(modulation), None, modulation, noise, plan, generator)
        return self.normalizer.unnormalize(x)
