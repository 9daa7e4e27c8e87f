"""Tiny pretrained models, which are built once. Vision tests run for a ResNet and every kind of transformer."""

from __future__ import annotations

import pytest
from tiny_models import VISION_MODELS, text_model, vision_model


@pytest.fixture(scope="session")
def vision_models(tmp_path_factory) -> dict[str, str]:
    """Return the folder of each kind of model, or "resnet18"."""
    pytest.importorskip("torchvision")
    pytest.importorskip("transformers")
    folders = {kind: vision_model(kind, tmp_path_factory.mktemp(kind)) for kind in VISION_MODELS}
    return {"resnet18": "resnet18", **folders}


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory) -> str:
    pytest.importorskip("transformers")
    return text_model(tmp_path_factory.mktemp("distilbert"))


@pytest.fixture(params=["resnet18", *VISION_MODELS])
def eyes(request, vision_models) -> str:
    return vision_models[request.param]
