"""The whole sampling loop as one module, for exported files: (noise, cond) -> chunk in robot units.

Axes: b batch, h horizon, a action, c condition, n tokens, P modulation values of all sites, T diffusion steps.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from action_heads.acting import Policy
from action_heads.diffusion.samplers import Sampling


class SamplingLoop(nn.Module):
    """The computation of `policy.sample` from noise on: adapter, modulation, k evaluations and denormalisation.

    It is a copy of only the parts that acting needs. The step embedding is replaced by a table.
    """

    table: Tensor

    def __init__(self, policy: Policy, sampling: Sampling):
        super().__init__()
        policy = policy.source
        self.sampling, self.plan = sampling, policy.head.plan(sampling)
        if self.plan.noise is not None:
            raise ValueError(
                f"{sampling.sampler} draws noise at every step, but an exported file has no generator. Choose another "
                "sampler, such as 'ddim'."
            )
        if not isinstance(cond_dim := policy.adapter.config.cond_dim, int):
            raise ValueError(
                f"An exported file takes one condition, but this adapter reads {', '.join(cond_dim)}. Export an "
                "adapter with one source, or use `action-heads serve`."
            )
        self.cond_dim = cond_dim
        # The table is a copy, so later training does not change the exported loop.
        self.register_buffer("table", policy.step_values().detach().float().clone())
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        own = self.policy.modulation
        self.policy.head.modulation = nn.ModuleDict({policy.adapter.name: own})
        self.policy.head._tables = {}
        for parameter in self.policy.parameters():
            parameter.__class__ = nn.Parameter  # Inductor cannot compile the subclass of a frozen head's parameters.
        self.policy.head.backbone.step = own.reduce = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.eval()

    def forward(self, noise: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the chunk (b h a) for noise (b h a) and cond (b c), or tokens (b n c) with mask (b n)."""
        policy = self.policy
        x = policy.head.denoise(self.table, policy.modulate(cond, mask), policy.modulation, noise, self.plan, None)
        return policy.normalizer.unnormalize(x)

    def example(self, batch: int, tokens: int | None) -> dict[str, Tensor]:
        """Return named example inputs for tracing."""
        config = self.policy.head.config
        generator = torch.Generator().manual_seed(0)
        inputs = {"noise": torch.randn((batch, config.horizon, config.space.dim), generator=generator)}
        if tokens is None:
            return inputs | {"cond": torch.randn((batch, self.cond_dim), generator=generator)}
        cond = torch.randn((batch, tokens, self.cond_dim), generator=generator)
        return inputs | {"cond": cond, "mask": torch.ones((batch, tokens), dtype=torch.bool)}
