"""LeRobot's action experts at their real sizes with random weights: SmolVLA, pi0, pi0.5, GR00T N1.7, Diffusion Policy.

They are built from LeRobot's own classes and config defaults on the meta device, and get memory without the models that
they read. A prefix of random keys and values, or tokens, replaces those. Only the sizes of SmolVLM2-500M are written
here, since its config is on the Hub; with them the whole model has 507,482,304 parameters.

Axes: b batch, h horizon, a action, n tokens of a prefix, c condition.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers
from forms import cast, compiled, under
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import pi_gemma
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel
from lerobot.policies.groot.groot_n1_7 import GR00TN17ActionHead, GR00TN17Config
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Pytorch, get_gemma_config
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch
from lerobot.policies.smolvla import smolvlm_with_expert
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.feature_extraction_utils import BatchFeature

CAMERAS = 3
TEXT: dict[str, Any] = {"vocab_size": 49280, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
TEXT |= {"num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "model_type": "llama"}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VISION |= {"image_size": 512, "patch_size": 16}

# LeRobot 0.6.1 requires transformers below 5.6, where this takes a cache_position. Later versions do not.
if "cache_position" not in inspect.signature(pi_gemma.create_causal_mask).parameters:
    newer = pi_gemma.create_causal_mask
    pi_gemma.create_causal_mask = lambda cache_position, **given: newer(**given)


@dataclass
class Expert:
    """An expert to count and time. It is on the meta device until `sampler` is called."""

    parts: list[nn.Module]  # The modules that form the expert.
    width: int  # The width of the tokens or vector that it reads.
    state: int  # The width of the state that the expert itself reads; 0 if the condition contains it.
    steps: int  # The default number of denoising steps.
    chunk: int  # The time steps of a chunk.
    prefix: int  # The number of tokens that it reads; 0 for a vector.
    run: Callable[[str, int, int], Tensor] = field(repr=False)  # (device, batch, steps) -> chunks, once it has memory.
    network: tuple[Any, str] = field(repr=False)  # The owner and the name of the function that each step calls.

    @property
    def parameters(self) -> int:
        return sum(p.numel() for part in self.parts for p in part.parameters())

    def sampler(
        self, device: str, dtype: torch.dtype = torch.float32, inductor: bool = False
    ) -> Callable[[int, int], Tensor]:
        """Give the expert memory and random weights, and return a function (batch, steps) -> chunks (b h a)."""
        if dtype != torch.float32:
            cast(self.parts, dtype)
        for part in self.parts:
            part.to_empty(device=device).eval().requires_grad_(False)
            for p in part.parameters():
                nn.init.normal_(p, std=0.02)
            for module in part.modules():
                if "inv_freq" in module._buffers:  # Random values would make no sense here.
                    module.__init__(module.config)
                    module.to(device)
        if inductor:
            owner, name = self.network
            setattr(owner, name, compiled(getattr(owner, name), device))

        return under(dtype, partial(torch.no_grad()(self.run), device))


class Prefix(DynamicCache):
    """Keys and values of a prefix. A step may append its own, which `crop(n)` removes again, as LeRobot expects."""

    def crop(self, n: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # the name differs
        layers: list[Any] = self.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., :n, :], layer.values[..., :n, :]


def prefix(layers: int, shape: tuple[int, ...], device: str) -> Prefix:
    past = Prefix()
    for layer in range(layers):
        past.update(torch.randn(shape, device=device), torch.randn(shape, device=device), layer)
    return past


def flow(model: Any, step: Callable[..., Tensor], batch: int, steps: int, device: str) -> Tensor:
    noise = torch.randn(batch, model.config.chunk_size, model.config.max_action_dim, device=device)
    return euler_integrate(lambda x, t: step(x_t=x, timestep=t), noise, steps)


def smolvla() -> Expert:
    config = SmolVLAConfig(device="cpu")
    vlm = transformers.SmolVLMConfig(text_config=TEXT, vision_config=VISION, scale_factor=4)
    processor = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=1, global_image_token_id=2))
    own = {"AutoConfig": vlm, "AutoProcessor": processor}
    named: dict[str, Any] = {name: SimpleNamespace(from_pretrained=lambda _, it=it: it) for name, it in own.items()}
    with mock.patch.multiple(smolvlm_with_expert, **named), torch.device("meta"):
        model = VLAFlowMatching(config)
    tokens = CAMERAS * (512 // 16 // 4) ** 2 + config.tokenizer_max_length + 1

    @cache
    def past(device: str, batch: int) -> Prefix:
        shape = (batch, TEXT["num_key_value_heads"], tokens, TEXT["head_dim"])
        return prefix(config.num_vlm_layers, shape, device)

    def run(device: str, batch: int, steps: int) -> Tensor:
        mask = torch.ones(batch, tokens, dtype=torch.bool, device=device)
        step = partial(model.denoise_step, prefix_pad_masks=mask, past_key_values=past(device, batch))
        return flow(model, step, batch, steps, device)

    inner = [model.action_in_proj, model.action_out_proj, model.action_time_mlp_in, model.action_time_mlp_out]
    parts = [model.vlm_with_expert.lm_expert, *inner]
    return Expert(
        parts, TEXT["hidden_size"], 0, config.num_steps, config.chunk_size, tokens, run, (model, "denoise_step")
    )


def pi(version: str) -> Expert:
    config = {"pi0": PI0Config, "pi05": PI05Config}[version](device="cpu")
    with torch.device("meta"):
        model = {"pi0": PI0Pytorch, "pi05": PI05Pytorch}[version](config)
    expert, vlm = model.paligemma_with_expert.gemma_expert.model, get_gemma_config(config.paligemma_variant)
    tokens = CAMERAS * (config.image_resolution[0] // 14) ** 2 + config.tokenizer_max_length

    @cache
    def past(device: str, batch: int) -> Prefix:
        shape = (batch, vlm.num_kv_heads, tokens, vlm.head_dim)
        return prefix(vlm.depth, shape, device)

    def run(device: str, batch: int, steps: int) -> Tensor:
        given = {"prefix_pad_masks": torch.ones(batch, tokens, dtype=torch.bool, device=device)}
        if version == "pi0":
            given["state"] = torch.randn(batch, config.max_state_dim, device=device)
        return flow(
            model, partial(model.denoise_step, past_key_values=past(device, batch), **given), batch, steps, device
        )

    names = ("action_in_proj", "action_out_proj", "state_proj", "action_time_mlp_in", "action_time_mlp_out")
    names += ("time_mlp_in", "time_mlp_out")
    parts = [expert, *(getattr(model, name) for name in names if hasattr(model, name))]
    state = config.max_state_dim if version == "pi0" else 0
    network = (model, "denoise_step")
    return Expert(parts, vlm.width, state, config.num_inference_steps, config.chunk_size, tokens, run, network)


def groot() -> Expert:
    config = GR00TN17Config()
    with torch.device("meta"):
        head = GR00TN17ActionHead(config)
    pictures = CAMERAS * (config.image_target_size[0] // 32) ** 2  # Patches of 16 pixels, merged two by two.
    tokens = pictures + 48

    def run(device: str, batch: int, steps: int) -> Tensor:
        seen = {
            "backbone_features": torch.randn(batch, tokens, config.backbone_embedding_dim, device=device),
            "backbone_attention_mask": torch.ones(batch, tokens, dtype=torch.bool, device=device),
            "image_mask": torch.arange(tokens, device=device).expand(batch, -1) < pictures,
        }
        robot = {
            "state": torch.randn(batch, 1, config.max_state_dim, device=device),
            "embodiment_id": torch.zeros(batch, dtype=torch.long, device=device),
        }
        head.num_inference_timesteps = steps
        return head.get_action(BatchFeature(seen), BatchFeature(robot))["action_pred"]

    width, state = config.backbone_embedding_dim, config.max_state_dim
    network = (head.model, "forward")
    return Expert([head], width, state, config.num_inference_timesteps, config.action_horizon, tokens, run, network)


def diffusion(action: int = 10, state: int = 8, cameras: int = 2) -> Expert:
    """Return Diffusion Policy with two cameras. Its ResNets are inputs, and get no memory."""
    pictures = {f"observation.images.{i}": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)) for i in range(cameras)}
    config = DiffusionConfig(
        input_features=pictures | {"observation.state": PolicyFeature(FeatureType.STATE, (state,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        device="cpu",
        pretrained_backbone_weights=None,
        use_group_norm=True,
    )
    model: Any = DiffusionModel(config)
    width = config.n_obs_steps * (state + cameras * 2 * config.spatial_softmax_num_keypoints)
    model.unet.to("meta")

    def run(device: str, batch: int, steps: int) -> Tensor:
        model.num_inference_steps = steps
        return model.conditional_sample(batch, global_cond=torch.randn(batch, width, device=device))

    return Expert([model.unet], width, 0, model.num_inference_steps, config.horizon, 0, run, (model.unet, "forward"))


EXPERTS: dict[str, Callable[[], Expert]] = {
    "SmolVLA": smolvla,
    "pi0": partial(pi, "pi0"),
    "pi0.5": partial(pi, "pi05"),
    "GR00T N1.7": groot,
    "Diffusion Policy": diffusion,
}
