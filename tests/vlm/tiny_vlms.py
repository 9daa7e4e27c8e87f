"""Tiny random transformers models, and inputs for them like those of a processor, without a download."""

from __future__ import annotations

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    GemmaConfig,
    GemmaForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

WIDTH, BLOCKS, IMAGE = 32, 3, 60  # Width and blocks of the language model; the id of an image token.
TEXT = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
}
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}


def smolvlm(**text) -> PreTrainedModel:
    config = SmolVLMConfig(
        text_config=TEXT | {"model_type": "llama"} | text,
        vision_config=SIGLIP,
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return SmolVLMForConditionalGeneration(config)


def qwen2_vl() -> PreTrainedModel:
    text = {k: v for k, v in TEXT.items() if k != "head_dim"}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = QWEN_VISION | {"embed_dim": 16, "hidden_size": WIDTH, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=61)
    )


def qwen2_5_vl() -> PreTrainedModel:
    text = {k: v for k, v in TEXT.items() if k != "head_dim"}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = QWEN_VISION | {"hidden_size": 16, "out_hidden_size": WIDTH, "intermediate_size": 24, "window_size": 16}
    vision |= {"fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=61)
    )


def paligemma() -> PreTrainedModel:
    text = TEXT | {"model_type": "gemma"}
    vision = SIGLIP | {"model_type": "siglip_vision_model", "projection_dim": WIDTH}
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE, projection_dim=WIDTH)
    )


def gemma() -> PreTrainedModel:
    return GemmaForCausalLM(GemmaConfig(**TEXT))


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**TEXT))


def siglip() -> PreTrainedModel:
    return SiglipVisionModel(SiglipVisionConfig(**SIGLIP | {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS}))


def dinov2() -> PreTrainedModel:
    return Dinov2Model(
        Dinov2Config(
            hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=2, image_size=32, patch_size=8, mlp_ratio=2
        )
    )


TEXT_MODELS = {"gemma": gemma, "qwen3": qwen3}
VISION_MODELS = {"siglip": siglip, "dinov2": dinov2}
# By name: its constructor, and the number of tokens of one image.
VLMS = {
    "smolvlm": (smolvlm, 4),
    "qwen2_vl": (qwen2_vl, 16),
    "qwen2_5_vl": (qwen2_5_vl, 16),
    "paligemma": (paligemma, 16),
}
MODELS = {**TEXT_MODELS, **VISION_MODELS, **{name: build for name, (build, _) in VLMS.items()}}


def build(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return MODELS[name]().eval()


def inputs(name: str, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return inputs of one image and words per row. The last two words of row 0 are padding."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 3, 32, 32, generator=generator)
    if name in VISION_MODELS:
        return {"pixel_values": pixels}
    words = torch.randint(3, 50, (batch, 6), generator=generator)
    pictures = torch.full((batch, VLMS[name][1] if name in VLMS else 0), IMAGE)
    ids = torch.cat([pictures, words], 1)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if name == "smolvlm":
        return given | {"pixel_values": pixels[:, None]}
    if name == "paligemma":
        return given | {"pixel_values": pixels, "token_type_ids": torch.zeros_like(ids)}
    if name in VLMS:  # Qwen takes flattened patches of all images, and their numbers.
        patches = torch.randn(batch * 64, 3 * 2 * 4 * 4, generator=generator)
        grid = torch.tensor(batch * [[1, 8, 8]])
        return given | {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": (ids == IMAGE).int()}
    return given
