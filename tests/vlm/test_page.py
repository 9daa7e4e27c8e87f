"""The code of docs/guides/attach-vlm.md runs, with tiny random models in the place of the real ones."""

from __future__ import annotations

import pytest
import torch
from pages import DOCS, blocks

pytest.importorskip("transformers")
pytest.importorskip("peft")

import tiny_vlms
import transformers
from tiny_vlms import IMAGE

PAGE = DOCS / "guides" / "attach-vlm.md"


def processor(images: torch.Tensor, text: str, return_tensors: str) -> dict[str, torch.Tensor]:
    """Return an image (3 H W) and words as SmolVLM's processor does."""
    assert text.startswith("<image>")
    assert return_tensors == "pt"
    ids = torch.tensor([[IMAGE] * 4 + [3 + len(word) for word in text.split()]])
    small = torch.nn.functional.interpolate(images[None].float() / 255, (32, 32))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": small[None]}


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(*_, **__):
        return tiny_vlms.smolvlm(num_hidden_layers=32)

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", load)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: processor)
    names: dict = {}
    assert len(blocks(PAGE)) == 10
    for block in blocks(PAGE):
        exec(compile(block.replace("steps=2000", "steps=2"), str(PAGE), "exec"), names)
    assert names["vla"].policy.head.frozen
    assert names["vla"].dtype == torch.bfloat16
    assert names["chunk"].shape == (1, 16, 10)
    assert names["cached"][:][0].shape == (4, 7, tiny_vlms.WIDTH)  # four of the image and three words
    assert list(tmp_path.rglob("*.safetensors"))
