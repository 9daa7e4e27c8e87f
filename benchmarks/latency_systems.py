"""The systems that `latency.py` times: ours, the paper's loop, diffusers' loops, U-Nets, and the experts of VLAs.

Axes: b batch, h horizon, a action, c condition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec

import diffusers
import torch
from torch import Tensor, nn
from torch.nn.functional import mish

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import AdaLNZero, FiLM
from action_heads.adapters.film import FiLMModulation
from action_heads.policy import ConditionedHead

COND_DIM = 2 * 512
Sample = Callable[[Tensor, int], object]  # (cond (b c), steps) -> a chunk


class PaperLoop(nn.Module):
    """DP-MLP as published (arXiv 2511.12101, section III-B), in plain code.

    Step embedding and observation features are concatenated, and every block's FiLM generator reads them in every
    denoising step. The backbone is ours, which the tests compare with the paper's equations.
    """

    def __init__(self, head: ActionHead):
        super().__init__()
        self.net, width = head.backbone, head.config.width
        self.generators = nn.ModuleList(nn.Linear(width + COND_DIM, 2 * site.hidden) for site in self.net.sites)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        features = torch.cat([self.net.step(t), mish(cond)], dim=-1)
        return self.net(x, [FiLMModulation(generator(features)[:, None]) for generator in self.generators])


class OursByDiffusers(nn.Module):
    """Our network and adapter, called in every denoising step, as a diffusers pipeline calls its model."""

    def __init__(self, policy: ConditionedHead):
        super().__init__()
        self.policy = policy

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        policy = self.policy
        values = policy.head.step_values(policy.modulation, t[:, None]) + policy.modulate(cond)
        return policy.head.predict(x, values, policy.modulation)


@torch.no_grad()
def by_diffusers(net: Callable[..., Tensor], cond: Tensor, steps: int) -> Tensor:
    """Sample by the DDIM of diffusers, like most diffusion policies: net(x (b h a), t (b), cond (b c))."""
    scheduler = diffusers.DDIMScheduler(  # pyright: ignore[reportPrivateImportUsage]
        100, beta_schedule="squaredcos_cap_v2", clip_sample=True
    )
    scheduler.set_timesteps(steps)
    x = torch.randn(len(cond), 16, 10, device=cond.device, dtype=cond.dtype)
    for t in scheduler.timesteps:
        output = net(x, t.to(cond.device).expand(len(cond)), cond)
        x = scheduler.step(output.to(x.dtype), int(t), x, return_dict=False)[0]
    return x


def ours(method: str, mechanism: type[AdaLNZero] | type[FiLM], device: str, dtype: torch.dtype) -> Sample:
    head = ActionHead.from_pretrained("dae/mlp-5m-fk", device=device)
    policy = head.attach(mechanism(COND_DIM)).eval().compile(method, dtype=dtype)
    if policy.compiled.method != method or policy.compiled.dtype != dtype:
        raise RuntimeError(policy.compiled.reason)
    return lambda cond, steps: policy.sample(cond, steps=steps)


def unet(device: str, dtype: torch.dtype) -> Sample:
    """Return the paper's DP-C, 244M, with our planned modulation, which is faster than the paper's loop."""
    config = HeadConfig(backbone="unet", mechanisms=("film",), width=512, depth=3)
    policy = ActionHead(config).to(device=device, dtype=dtype).freeze().attach(FiLM(COND_DIM)).eval()
    return lambda cond, steps: policy.sample(cond, steps=steps)


def lerobots_unet(device: str, dtype: torch.dtype) -> Sample:
    from lerobot.configs.types import FeatureType, PolicyFeature  # pyright: ignore[reportMissingImports]
    from lerobot.policies.diffusion.modeling_diffusion import (  # pyright: ignore[reportMissingImports]
        DiffusionConditionalUnet1d,
        DiffusionConfig,
    )

    config = DiffusionConfig(output_features={"action": PolicyFeature(FeatureType.ACTION, (10,))})
    net = DiffusionConditionalUnet1d(config, COND_DIM).to(device).eval()

    def predict(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        # Its step embedding is float32 for any weights, so LeRobot uses autocast for half precision.
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return net(x.float(), t, global_cond=cond.float()).to(x.dtype)

    return partial(by_diffusers, predict)


@cache  # Two precisions share the weights; GR00T's take 6 GB.
def experts_sampler(name: str, device: str) -> Callable[[int, int], Tensor]:
    from experts import EXPERTS

    return EXPERTS[name]().sampler(device)


def vlas_expert(name: str, device: str, dtype: torch.dtype) -> Sample:
    """Return LeRobot's expert with its own chunk and prefix, for any width of cond. Half precision uses autocast."""
    sample = experts_sampler(name, device)

    def call(cond: Tensor, steps: int) -> Tensor:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return sample(len(cond), steps)

    return call


def systems(device: str) -> dict[str, Callable[[torch.dtype], Sample]]:
    """Return functions, by name, that build a system for a precision."""

    def loop(net: nn.Module, dtype: torch.dtype) -> Sample:
        return partial(by_diffusers, net.to(device=device, dtype=dtype).eval())

    def bundled() -> ActionHead:
        return ActionHead.from_pretrained("dae/mlp-5m-fk")

    fast = ("graph", "inductor") if device == "cuda" else ("native", "packed", "inductor")
    table: dict[str, Callable[[torch.dtype], Sample]] = {
        f"ours, AdaLN-Zero, {method}": partial(ours, method, AdaLNZero, device) for method in ("eager", *fast)
    }
    table |= {f"ours, FiLM, {method}": partial(ours, method, FiLM, device) for method in ("eager", fast[0])}
    table["ours, AdaLN-Zero, by diffusers"] = lambda dtype: loop(
        OursByDiffusers(bundled().to(dtype).attach(AdaLNZero(COND_DIM))), dtype
    )
    table["the paper's DP-MLP, its loop"] = lambda dtype: loop(PaperLoop(bundled()), dtype)
    table["the paper's DP-C, 244M, ours planned"] = partial(unet, device)
    if find_spec("lerobot"):
        table["LeRobot's diffusion U-Net, 277M"] = partial(lerobots_unet, device)
        for name in ("SmolVLA", "pi0", "pi0.5", "GR00T N1.7"):
            table[f"LeRobot's {name} expert"] = partial(vlas_expert, name, device)
    return table
