"""The code of docs/guides/attach-vlm.md runs, with tiny random models in the place of the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

import tiny_vlms
import transformers
from small import actions
from tiny_vlms import IMAGE

PAGE = Path(__file__).parent.parent.parent / "docs" / "guides" / "attach-vlm.md"


def processor(images: torch.Tensor, text: str, return_tensors: str) -> dict[str, torch.Tensor]:
    """Return an image (3 32 32) and words as SmolVLM's processor does."""
    assert text.startswith("<image>")
    assert return_tensors == "pt"
    ids = torch.tensor([[IMAGE] * 4 + [3 + len(word) for word in text.split()]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images[None, None]}


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vlm = tiny_vlms.smolvlm(num_hidden_layers=32)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: vlm)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: processor)
    picture = torch.randn(3, 32, 32)
    samples = [{"picture": torch.randn(3, 32, 32), "text": "lift"} for _ in range(4)]
    inputs = processor(picture, "<image>lift the cube", "pt")
    names = {"picture": picture, "samples": samples, "inputs": inputs, "chunk": actions(1)}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["action"].shape == (1, 16, 10)
    assert names["tokens"].shape == (2, 4, tiny_vlms.WIDTH)
    assert list(tmp_path.rglob("*.safetensors"))
