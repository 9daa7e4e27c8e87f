"""Fixtures for Stage 2. All tests here run on the CPU, even on a machine with a GPU, since they compare bits."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("h5py", "accelerate", "tyro", "transformers")):
    collect_ignore_glob = ["test_*.py"]
else:
    from on_the_cpu import on_the_cpu  # noqa: F401 - a fixture
    from recorded import SIZE, hdf5
    from small import tiny_head

    from action_heads.training import curve

sys.path.append(str(Path(__file__).parents[1] / "encoders"))
sys.path.append(str(Path(__file__).parents[1] / "vlm"))


@pytest.fixture(autouse=True)
def drawing(monkeypatch):
    """Replace the drawing of the curve, which takes longer than a tiny run. Return the function that draws."""
    draw = curve.draw_curve
    monkeypatch.setattr(curve, "draw_curve", lambda *_: None)
    return draw


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> str:
    """Return the folder of a small vision model for images of any size."""
    import torch
    import transformers as tr

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tr.ViTModel(tr.ViTConfig(**sizes, image_size=SIZE, patch_size=8)).save_pretrained(folder)
    tr.ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a recording and a pretrained head."""
    hdf5(tmp_path / "demos.hdf5")
    tiny_head().save_pretrained(tmp_path / "head")
    return tmp_path
