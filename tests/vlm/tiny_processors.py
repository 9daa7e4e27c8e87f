"""Tiny models with their processors, saved as folders, without a download."""

from __future__ import annotations

from pathlib import Path

import tiny_vlms
import transformers as tr
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "lift", "the", "red", "green", "cube", "move", "user", ":", "assistant"]
SPECIAL = {"<image>": tiny_vlms.IMAGE, "<video>": 61, "<fake>": 50, "<global-img>": 51, "<end_of_utterance>": 52}
IMAGE_TEMPLATE = (
    "{% for m in messages %}{{m['role']}} : {% for c in m['content'] %}{% if c['type'] == 'image' %} <image> :"
    "{% else %} {{c['text']}}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant :{% endif %}"
)
TEXT_TEMPLATE = "{% for m in messages %}{{m['role']}} : {{m['content']}}{% endfor %} assistant :"
PIXELS = 32


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(WORDS)} | SPECIAL
    free = sorted(set(range(64)) - {*vocabulary.values()})  # saved tokenizers lose tokens if there are gaps
    vocabulary |= {f"word-{i}": i for i in free}
    inside = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inside.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inside,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"} | special,
    )


def smolvlm(template: str | None = IMAGE_TEMPLATE):
    size = {"longest_edge": PIXELS}
    images = tr.SmolVLMImageProcessor(do_image_splitting=False, size=size, max_image_size=size, resample=2)
    videos = tr.SmolVLMVideoProcessor(size=size, max_image_size=size)
    words = tokenizer(fake_image_token="<fake>", global_image_token="<global-img>", end_of_utterance_token="<eos>")
    return tr.SmolVLMProcessor(images, words, videos, image_seq_len=4, chat_template=template)


def qwen2_5_vl(template: str | None = IMAGE_TEMPLATE):
    sizes = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    sizes |= {"size": {"shortest_edge": PIXELS**2, "longest_edge": PIXELS**2}, "resample": 2}
    images, videos = tr.Qwen2VLImageProcessor(**sizes), tr.Qwen2VLVideoProcessor(**sizes)
    words = tokenizer(video_token="<video>")
    return tr.Qwen2_5_VLProcessor(images, words, videos, chat_template=template)


def paligemma(template: str | None = None):
    images = tr.SiglipImageProcessor(size={"height": PIXELS, "width": PIXELS}, resample=2)
    images.image_seq_length = 16
    return tr.PaliGemmaProcessor(images, tokenizer(), chat_template=template)


def qwen3(template: str | None = None):
    words = tokenizer()
    words.chat_template = template
    return words


def siglip(template: str | None = None):
    return tr.SiglipImageProcessor(size={"height": PIXELS, "width": PIXELS}, resample=2)


PROCESSORS = {"smolvlm": smolvlm, "qwen2_5_vl": qwen2_5_vl, "paligemma": paligemma, "qwen3": qwen3, "siglip": siglip}


def saved(folder: Path, name: str, seed: int = 0, **options) -> str:
    """Save a model and its processor, and return the folder."""
    tiny_vlms.build(name, seed).save_pretrained(folder)
    PROCESSORS[name](**options).save_pretrained(folder)
    return str(folder)
