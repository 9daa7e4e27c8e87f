"""Tiny pretrained models in folders, so that nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lift", "stack", "the", "red", "cube", "pick", "up"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = SIZES | {"image_size": 32, "patch_size": 8}
MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
VISION_MODELS = ("siglip", "clip", "dinov2", "vit")


def vision_model(kind: str, folder: Path) -> str:
    """Save a random vision model with its preprocessor, and return its folder."""
    import transformers as tr

    torch.manual_seed(1)
    text = SIZES | {"vocab_size": 20}
    model = {
        "siglip": lambda: tr.SiglipModel(tr.SiglipConfig(text_config=text, vision_config=VISION)),
        "clip": lambda: tr.CLIPModel(tr.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)),
        "dinov2": lambda: tr.Dinov2Model(tr.Dinov2Config(**VISION)),
        "vit": lambda: tr.ViTModel(tr.ViTConfig(**VISION)),
    }[kind]()
    model.save_pretrained(folder)
    tr.ViTImageProcessor(image_mean=MEAN, image_std=STD, size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def text_model(folder: Path) -> str:
    """Save a random DistilBERT with a vocabulary of a few words, and return its folder."""
    import transformers as tr
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(2)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tr.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(folder)
    config = tr.DistilBertConfig(vocab_size=len(WORDS), dim=24, hidden_dim=48, n_layers=2, n_heads=4)
    tr.DistilBertModel(config).save_pretrained(folder)
    return str(folder)
