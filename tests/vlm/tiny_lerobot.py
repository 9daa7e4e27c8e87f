"""Small random policies of LeRobot's own classes, made by their configs, or by patches where code fixes sizes."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace
from typing import Any
from unittest import mock

import tiny_vlms
import torch
import transformers
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import pi_gemma
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.groot import groot_n1_7
from lerobot.policies.groot.configuration_groot import GrootConfig
from lerobot.policies.groot.modeling_groot import GrootPolicy
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.smolvla import smolvlm_with_expert
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.constants import (
    ACTION,
    OBS_IMAGES,
    OBS_LANGUAGE_ATTENTION_MASK,
    OBS_LANGUAGE_TOKENS,
    OBS_STATE,
)

WIDTH, STATE, PIXELS, WORDS = tiny_vlms.WIDTH, 8, 32, 6
CAMERA = f"{OBS_IMAGES}.top"
PATCHES = 4  # Tokens of an image in SmolVLA (8 x 8 pixels, shuffled two by two).
PI_PATCHES = 16

# LeRobot 0.6.1 requires transformers below 5.6, where this takes a cache_position. Later versions do not.
if "cache_position" not in inspect.signature(pi_gemma.create_causal_mask).parameters:
    newer = pi_gemma.create_causal_mask
    pi_gemma.create_causal_mask = lambda cache_position, **given: newer(**given)


def features(action: int = 10, state: int = STATE) -> dict[str, Any]:
    return {
        "input_features": {
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)),
            OBS_STATE: PolicyFeature(FeatureType.STATE, (state,)),
        },
        "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (action,))},
        "device": "cpu",
    }


def batch(rows: int = 2, steps: int | None = None, state: int = STATE, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a preprocessed batch. The last two words of row 0 are padding. `steps` adds an axis of observations."""
    generator = torch.Generator().manual_seed(seed)
    axes = (rows,) if steps is None else (rows, steps)
    valid = torch.ones(rows, WORDS, dtype=torch.bool)
    valid[0, -2:] = False
    return {
        CAMERA: torch.rand(*axes, 3, PIXELS, PIXELS, generator=generator),
        OBS_STATE: torch.randn(*axes, state, generator=generator),
        OBS_LANGUAGE_TOKENS: torch.randint(3, 50, (rows, WORDS), generator=generator),
        OBS_LANGUAGE_ATTENTION_MASK: valid,
    }


def smolvla(**settings) -> SmolVLAPolicy:
    """Build SmolVLA with patched AutoConfig and AutoProcessor and four blocks, of which LeRobot keeps three."""
    torch.manual_seed(0)
    config = transformers.SmolVLMConfig(
        text_config=tiny_vlms.TEXT | {"model_type": "llama", "num_hidden_layers": 4},
        vision_config=tiny_vlms.SIGLIP,
        image_token_id=tiny_vlms.IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    processor = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=61, global_image_token_id=62))
    own = {"AutoConfig": config, "AutoProcessor": processor}
    sources = {name: SimpleNamespace(from_pretrained=lambda _, it=it: it) for name, it in own.items()}
    size = {"num_vlm_layers": 3, "resize_imgs_with_padding": (PIXELS, PIXELS), "chunk_size": 5, "n_action_steps": 5}
    with mock.patch.multiple(smolvlm_with_expert, **sources):
        return SmolVLAPolicy(SmolVLAConfig(**features() | size | settings)).eval()


def pi(version: str, **settings) -> Any:
    """Build pi0 or pi0.5. The vision tower and the vocabulary, fixed in LeRobot's code, are made smaller."""
    torch.manual_seed(0)
    module, config, policy = {
        "pi0": (modeling_pi0, PI0Config, "PI0Policy"),
        "pi05": (modeling_pi05, PI05Config, "PI05Policy"),
    }[version]
    sizes = {
        "gemma_2b": module.GemmaConfig(WIDTH, 3, 48, 8, 1, 8),
        "gemma_300m": module.GemmaConfig(16, 3, 24, 8, 1, 8),
    }
    whole, expert = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM

    def small_whole(config: Any) -> Any:
        config = copy.deepcopy(config)
        config.text_config.vocab_size = 64
        for name, value in (tiny_vlms.SIGLIP | {"projection_dim": WIDTH}).items():
            setattr(config.vision_config, name, value)
        return whole(config=config)

    def small_expert(config: Any) -> Any:
        config.vocab_size = 64
        return expert(config=config)

    patched = {
        "get_gemma_config": sizes.__getitem__,
        "PaliGemmaForConditionalGenerationWithPiGemma": small_whole,
        "PiGemmaForCausalLM": small_expert,
    }
    size = {"image_resolution": (PIXELS, PIXELS), "chunk_size": 5, "n_action_steps": 5}
    with mock.patch.multiple(module, **patched):
        return getattr(module, policy)(config(**features() | size | settings)).eval()


def diffusion(**settings) -> DiffusionPolicy:
    torch.manual_seed(0)
    size = {"down_dims": (16, 32), "n_groups": 4, "diffusion_step_embed_dim": 8, "spatial_softmax_num_keypoints": 4}
    size |= {"pretrained_backbone_weights": None, "use_group_norm": True, "horizon": 16, "n_action_steps": 8}
    return DiffusionPolicy(DiffusionConfig(**features(2, 2) | size | settings)).eval()


def groot_model(**settings) -> groot_n1_7.GR00TN17:
    """Build GR00T's model with a small config in place of LeRobot's own for its Qwen3-VL."""
    torch.manual_seed(0)
    text = {k: v for k, v in tiny_vlms.TEXT.items() if k not in ("bos_token_id", "eos_token_id")}
    text |= {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64}
    backbone = transformers.Qwen3VLConfig(
        text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0]}, image_token_id=tiny_vlms.IMAGE
    )
    size = {"backbone_embedding_dim": WIDTH, "select_layer": 2, "hidden_size": 16, "input_embedding_dim": 16}
    size |= {"max_state_dim": 12, "max_action_dim": 12, "action_horizon": 20, "max_num_embodiments": 4}
    layers = {"num_layers": 2, "num_attention_heads": 2, "dropout": 0.0, "final_dropout": True}
    layers |= {"positional_embeddings": None}
    size["diffusion_model_cfg"] = layers | {
        "attention_head_dim": 8,
        "norm_type": "ada_norm",
        "output_dim": 16,
        "interleave_self_attention": True,
    }
    size["vl_self_attention_cfg"] = layers | {"attention_head_dim": WIDTH // 2}
    with mock.patch.object(groot_n1_7, "_cosmos_reason2_qwen3_vl_config", return_value=backbone):
        config = groot_n1_7.GR00TN17Config(**size | settings)
        return groot_n1_7.GR00TN17(config, load_backbone_weights=False).float().eval()


def groot(**settings) -> GrootPolicy:
    """Build GR00T's policy, which would otherwise load a checkpoint."""
    model = groot_model()
    with mock.patch.object(groot_n1_7.GR00TN17, "from_pretrained", return_value=model):
        config = GrootConfig(**features(8) | {"base_model_path": "nvidia/GR00T-N1.7-3B"} | settings)
        return GrootPolicy(config).eval()


def groot_batch(rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch of GR00T's preprocessor: normalised, padded to the model's widths, with an embodiment number."""
    inputs = {k: v for k, v in tiny_vlms.inputs("qwen2_vl", rows, seed).items() if k != "mm_token_type_ids"}
    generator = torch.Generator().manual_seed(seed)
    valid = torch.zeros(rows, 20, 12)
    valid[:, :16, :8] = 1  # This robot has chunks of 16 time steps of 8 numbers.
    return inputs | {
        "state": torch.rand(rows, 1, 12, generator=generator) * 2 - 1,
        "action": (torch.rand(rows, 20, 12, generator=generator) * 2 - 1) * valid,
        "action_mask": valid,
        "embodiment_id": torch.full((rows,), 2),
    }
