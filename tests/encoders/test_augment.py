"""Crops and jitter are the same for all steps of a batch row, repeatable, and absent in evaluation."""

from __future__ import annotations

import pytest
import torch

from action_heads.encoders import VisionConfig
from action_heads.encoders.augment import crop, jitter, prepare, resize


def numbered(rows: int, steps: int = 2, height: int = 20, width: int = 24) -> torch.Tensor:
    """Return images whose pixel values encode their positions."""
    return torch.arange(height * width).view(height, width).float().expand(rows, steps, 3, height, width)


def test_a_crop_is_a_window_of_its_row():
    torch.manual_seed(0)
    windows = crop(numbered(64), (9, 11), anywhere=True)
    assert windows.shape == (64, 2, 3, 9, 11)
    corners = windows[:, 0, 0, 0, 0].long()
    template = torch.arange(9)[:, None] * 24 + torch.arange(11)
    assert torch.equal(windows.long(), (corners[:, None, None] + template)[:, None, None].expand(64, 2, 3, 9, 11))
    assert set((corners // 24).tolist()) == set(range(12))  # Every position is drawn, including the last ones.
    assert set((corners % 24).tolist()) == set(range(14))


def test_evaluation_cuts_the_centre():
    window = crop(numbered(2), (10, 12), anywhere=False)
    assert torch.equal(window, numbered(2)[..., 5:15, 6:18])


def test_jitter_is_what_torchvision_does():
    f = pytest.importorskip("torchvision.transforms.v2.functional")
    images = torch.rand(5, 2, 3, 8, 9)
    torch.manual_seed(0)
    factors = 1 + 0.4 * (2 * torch.rand(3, 5) - 1)
    torch.manual_seed(0)
    changed = jitter(images, 0.4)
    for row in range(5):
        expected = f.adjust_brightness(images[row], float(factors[0, row]))
        expected = f.adjust_contrast(expected, float(factors[1, row]))
        expected = f.adjust_saturation(expected, float(factors[2, row]))
        torch.testing.assert_close(changed[row], expected, atol=2e-4, rtol=0)  # Its weights for grey have 4 digits.


def test_seeded_in_training_and_constant_in_evaluation():
    config = VisionConfig(resize=(16, 18), crop=(12, 13), jitter=0.3)
    same = torch.rand(1, 1, 3, 20, 24).expand(6, 2, 3, 20, 24)

    def seen(seed: int, training: bool) -> torch.Tensor:
        torch.manual_seed(seed)
        return prepare(same, config, training)

    trained, evaluated = seen(0, True), seen(0, False)
    assert torch.equal(trained, seen(0, True))
    assert not torch.equal(trained, seen(1, True))
    assert torch.equal(trained[:, 0], trained[:, 1])  # All steps of a row are the same.
    assert len(torch.unique(trained.flatten(1), dim=0)) == 6  # All rows differ.
    assert torch.equal(evaluated, seen(1, False))
    assert len(torch.unique(evaluated.flatten(1), dim=0)) == 1
    state = torch.get_rng_state()
    prepare(same, config, training=False)
    assert torch.equal(state, torch.get_rng_state())


def test_resizing_is_antialiased():
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    small = resize(board.float().expand(1, 1, 3, 32, 32), (8, 8))
    assert (small - 0.5).abs().max() < 0.1


def test_too_large_a_crop_names_the_field():
    with pytest.raises(ValueError, match=r"vision.crop \(30, 30\) is larger than the images, 20 x 24"):
        crop(numbered(1), (30, 30), anywhere=False)
