"""The systems that `latency.py` times: ours, the paper's loop, diffusers' loops, U-Nets, and the experts of VLAs.

A system of others also comes compiled, with weights of the precision asked for, and if it uses autocast for bf16 also
uncompiled with weights in bf16. So it can be compared in its best form.

Axes: b batch, h horizon, a action, c condition.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import diffusers
import torch
from forms import BF16_WEIGHTS, INDUCTOR, compiled, under
from torch import Tensor, nn
from torch.nn.functional import mish

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import AdaLNZero, FiLM
from action_heads.adapters.film import FiLMModulation
from action_heads.policy import ConditionedHead
from action_heads.runtime.fused import FusedHead

COND_DIM = 2 * 512
Sample = Callable[[Tensor, int], object]  # (cond (b c), steps) -> a chunk


class FellBack(RuntimeError):
    """Another method computed a chunk in place of the one that is timed; the message says why."""


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

    def sample(cond: Tensor, steps: int) -> Tensor:
        chunk = policy.sample(cond, steps=steps)
        if isinstance(policy.head, FusedHead) and policy.head.fell_back:
            raise FellBack(policy.head.fell_back)
        return chunk

    return sample


def unet(device: str, form: str, dtype: torch.dtype) -> Sample:
    """Return the paper's DP-C, 244M, with our planned modulation, which is faster than the paper's loop."""
    config = HeadConfig(backbone="unet", mechanisms=("film",), width=512, depth=3)
    policy = ActionHead(config).to(device=device, dtype=dtype).freeze().attach(FiLM(COND_DIM)).eval()
    if form == "eager":
        return lambda cond, steps: policy.sample(cond, steps=steps)
    fast = policy.compile(form, dtype=dtype)
    if fast.compiled.method != form:
        raise RuntimeError(fast.compiled.reason)
    return lambda cond, steps: fast.sample(cond, steps=steps)


def lerobots_unet(device: str, form: str, dtype: torch.dtype) -> Sample:
    from lerobot.configs.types import FeatureType, PolicyFeature  # pyright: ignore[reportMissingImports]
    from lerobot.policies.diffusion.modeling_diffusion import (  # pyright: ignore[reportMissingImports]
        DiffusionConditionalUnet1d,
        DiffusionConfig,
    )

    config = DiffusionConfig(output_features={"action": PolicyFeature(FeatureType.ACTION, (10,))})
    net = DiffusionConditionalUnet1d(config, COND_DIM).to(device).eval()
    if form == "eager":

        def predict(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            # Its step embedding is float32 for any weights, so LeRobot uses autocast for half precision.
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                return net(x.float(), t, global_cond=cond.float()).to(x.dtype)

        return partial(by_diffusers, predict)
    net.to(dtype)
    call = lambda x, t, cond: net(x, t, global_cond=cond)  # noqa: E731
    return partial(by_diffusers, under(dtype, compiled(call, device) if form == INDUCTOR else call))


@cache  # Two precisions share the weights; GR00T's take 6 GB.
def experts_sampler(
    name: str, device: str, dtype: torch.dtype = torch.float32, inductor: bool = False
) -> Callable[[int, int], Tensor]:
    from experts import EXPERTS

    return EXPERTS[name]().sampler(device, dtype, inductor)


def vlas_expert(name: str, device: str, form: str, dtype: torch.dtype) -> Sample:
    """Return LeRobot's expert with its own chunk and prefix, for any width of cond. The eager form uses autocast."""
    if form != "eager":
        made = experts_sampler(name, device, dtype, form == INDUCTOR)
        return lambda cond, steps: made(len(cond), steps)
    sample = experts_sampler(name, device)

    def call(cond: Tensor, steps: int) -> Tensor:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return sample(len(cond), steps)

    return call


def authors(checkout: Path, device: str) -> dict[str, Callable[[torch.dtype], Sample]]:
    """Return the DP-MLP and DP-C of the paper's authors, from a checkout of their repository, in diffusers' loop."""
    sys.path.insert(0, str(checkout / "src"))
    from vlaworkspace.model.action_expert import (  # pyright: ignore[reportMissingImports]
        ConditionalUnet1D,
        MLPForDiffusion,
    )

    def mlp() -> nn.Module:
        sizes = {"horizon": 16, "n_obs_steps": 2, "cond_dim": COND_DIM // 2, "n_layer": 8, "n_emb": 256}
        return MLPForDiffusion(10, 10, **sizes, parallel_input_emb=True)

    def cnn() -> nn.Module:
        sizes = {"diffusion_step_embed_dim": 128, "down_dims": [512, 1024, 2048], "kernel_size": 5}
        return ConditionalUnet1D(10, COND_DIM, **sizes, cond_predict_scale=True)

    nets = {"the authors' DP-MLP": mlp, "the authors' DP-C": cnn}

    def sampler(build: Callable[[], nn.Module], form: str, dtype: torch.dtype) -> Sample:
        net = build().to(device=device, dtype=dtype).eval()  # its step embedding has torch's default dtype
        return partial(by_diffusers, under(dtype, compiled(net, device) if form == INDUCTOR else net))

    return {
        f"{name}{suffix}": partial(sampler, build, form)
        for name, build in nets.items()
        for suffix, form in (("", "eager"), (f", {INDUCTOR}", INDUCTOR))
    }


def loop(build: Callable[[], nn.Module], device: str, form: str, dtype: torch.dtype) -> Sample:
    """Return the loop of diffusers over a network whose weights have the precision asked for."""
    net = build().to(device=device, dtype=dtype).eval()
    return partial(by_diffusers, compiled(net, device) if form == INDUCTOR else net)


def systems(device: str) -> dict[str, Callable[[torch.dtype], Sample]]:
    """Return functions, by name, that build a system for a precision."""

    def bundled() -> ActionHead:
        return ActionHead.from_pretrained("dae/mlp-5m-fk")

    fast = ("graph", "fused", "inductor") if device == "cuda" else ("native", "packed", "inductor")
    table: dict[str, Callable[[torch.dtype], Sample]] = {
        f"ours, AdaLN-Zero, {method}": partial(ours, method, AdaLNZero, device) for method in ("eager", *fast)
    }
    table |= {
        f"ours, FiLM, {method}": partial(ours, method, FiLM, device)
        for method in ("eager", *(fast[:2] if device == "cuda" else fast[:1]))
    }
    table["ours, AdaLN-Zero, by diffusers"] = lambda dtype: loop(
        lambda: OursByDiffusers(bundled().to(dtype).attach(AdaLNZero(COND_DIM))), device, "eager", dtype
    )
    rivals: dict[str, tuple[Callable[[str, torch.dtype], Sample], tuple[str, ...]]] = {
        "the paper's DP-MLP, its loop": (partial(loop, lambda: PaperLoop(bundled()), device), (INDUCTOR,)),
        "the paper's DP-C, 244M, ours planned": (partial(unet, device), fast[:1] if device == "cuda" else fast[2:]),
    }
    if find_spec("lerobot"):
        rivals["LeRobot's diffusion U-Net, 277M"] = partial(lerobots_unet, device), (BF16_WEIGHTS, INDUCTOR)
        for name in ("SmolVLA", "pi0", "pi0.5", "GR00T N1.7"):
            rivals[f"LeRobot's {name} expert"] = partial(vlas_expert, name, device), (BF16_WEIGHTS, INDUCTOR)
    for name, (build, forms) in rivals.items():
        table[name] = partial(build, "eager")
        table |= {f"{name}, {form}": partial(build, form) for form in forms}
    return table
