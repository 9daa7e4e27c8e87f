"""The paper's vision encoder is torchvision's network with other norms, and keypoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from action_heads.encoders import SpatialSoftmax, VisionConfig

models = pytest.importorskip("torchvision.models")
from action_heads.encoders.resnet import WIDTHS, resnet_trunk  # noqa: E402


@pytest.fixture
def downloads(monkeypatch):
    """Replace the download by random weights, with statistics like those of training."""
    torch.manual_seed(3)
    network = models.resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: network.state_dict())
    return network.eval()


def test_spatial_softmax_is_the_mean_position():
    torch.manual_seed(0)
    layer = SpatialSoftmax(6, 4).double()
    features = 3 * torch.randn(5, 6, 7, 9, dtype=torch.float64)
    weight, bias = layer.keypoints.weight.detach().numpy()[:, :, 0, 0], layer.keypoints.bias.detach().numpy()
    expected = np.zeros((5, 4, 2))
    for image, values in enumerate(features.numpy()):
        for k in range(4):
            likely = np.exp(np.einsum("w,wyx->yx", weight[k], values) + bias[k])
            total = likely.sum()
            for y in range(7):
                for x in range(9):
                    expected[image, k] += likely[y, x] / total * np.array([2 * x / 8 - 1, 2 * y / 6 - 1])
    np.testing.assert_allclose(layer(features).detach().numpy(), expected.reshape(5, 8), atol=1e-12)


def test_a_single_place_shows_nothing():
    """All keypoints would be constant, and the policy would see nothing."""
    trunk, layer = resnet_trunk(VisionConfig(), load=False), SpatialSoftmax(512, 2)
    layer(trunk(torch.rand(1, 3, 33, 33)))
    with pytest.raises(ValueError, match=r"feature map is 1 x 2.*larger vision.crop"):
        layer(trunk(torch.rand(1, 3, 32, 64)))


@pytest.mark.parametrize("name", WIDTHS)
def test_trained_with_group_norm(name):
    trunk = resnet_trunk(VisionConfig(name), load=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())
    whole = getattr(models, name)()
    assert sum(p.numel() for p in trunk.parameters()) == sum(
        p.numel() for key, p in whole.named_parameters() if not key.startswith("fc.")
    )
    assert trunk(torch.rand(2, 3, 76, 76)).shape == (2, WIDTHS[name], 3, 3)
    images = torch.rand(3, 3, 40, 40)
    torch.testing.assert_close(trunk(images)[:1], trunk(images[:1]), atol=1e-4, rtol=1e-4)  # No row depends on another.


def test_imagenet_convolutions_load_and_norms_start_fresh(downloads):
    trunk = resnet_trunk(VisionConfig(weights="imagenet"), load=True)
    loaded = [p for p in trunk.parameters() if p.ndim == 4]
    original = [p for p in downloads.parameters() if p.ndim == 4]
    assert len(loaded) == len(original) == 20
    assert all(torch.equal(a, b) for a, b in zip(loaded, original, strict=True))
    norms = [m for m in trunk.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20
    assert all(bool((m.weight == 1).all() and (m.bias == 0).all()) for m in norms)


def test_frozen_is_the_network_of_torchvision(downloads):
    """The frozen trunk equals torchvision's own forward up to its pooling."""
    trunk = resnet_trunk(VisionConfig(weights="imagenet", train=False), load=True)
    normalize = pytest.importorskip("torchvision.transforms.v2").Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    downloads.fc = nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images).mean((-2, -1)), downloads(normalize(images)), atol=1e-5, rtol=1e-5)


def test_without_a_network_connection(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(OSError, match=r"could not be downloaded.*vision.weights=None"):
        resnet_trunk(VisionConfig(weights="imagenet"), load=True)
    resnet_trunk(VisionConfig(weights="imagenet"), load=False)  # Its weights come from a saved state.
