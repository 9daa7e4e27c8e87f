"""Tests of the denoising loss against recorded numbers and, bit for bit, against its formula."""

from __future__ import annotations

import pytest
import torch
from small import actions, conditions, generator, tiny_config, tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.diffusion.loss import Noise, corrupt, denoising_loss
from action_heads.pretrain import objective

# Recorded when each stage had its own loss function: by backbone, without and with clean time steps.
STAGE_1 = {
    "mlp": (0.43304750323, None),
    "mixer": (0.40415546298, 0.40559321642),
    "transformer": (0.46046730876, 0.43086710572),
    "unet": (0.21913211048, 0.19843260944),
}
STAGE_2 = {
    "mlp": (0.51660847664, 0.49561238289, None, None),
    "mixer": (0.57600641251, 0.56991910934, 0.59040975571, 0.59232246876),
    "transformer": (0.51274609566, 0.51803725958, 0.50522214174, 0.50699412823),
    "unet": (0.35602900386, 0.37576109171, 0.33532503247, 0.34698924422),
}


def padding() -> torch.Tensor:
    is_pad = torch.zeros(4, 16, dtype=torch.bool)
    is_pad[1, 9:] = is_pad[3, 1:] = True
    return is_pad


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("backbone", STAGE_1)
def test_stage_1_has_the_numbers_of_before(backbone, mixed):
    if (expected := STAGE_1[backbone][mixed]) is None:
        pytest.skip("this backbone does not mix time steps, so it has no clean ones")
    torch.manual_seed(0)
    head = ActionHead(tiny_config(backbone))
    readers = objective.signal_readers(head, "code", 160)
    x0 = head.normalizer.normalize(actions(6))
    loss = objective.loss(head, readers, x0, x0.flatten(1), "film", generator(3), mixed)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("prefixes", "padded"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("backbone", STAGE_2)
def test_stage_2_has_the_numbers_of_before(backbone, prefixes, padded):
    if (expected := STAGE_2[backbone][2 * prefixes + padded]) is None:
        pytest.skip("this backbone does not mix time steps, so it has no clean ones")
    policy, is_pad = trained_policy(tiny_head(backbone), "film"), padding() if padded else None
    loss = policy.loss(actions(), conditions(), is_pad=is_pad, generator=generator(2), prefixes=prefixes)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", [None, (4, 1), (4, 16)])
def test_only_noisy_steps_count(shape, padded):
    head, g = tiny_head("mixer"), generator()
    modulation, x0 = head.modulation_of("film"), head.normalizer.normalize(actions())
    clean = None if shape is None else torch.rand(shape, generator=g) < 0.3
    noise = Noise(head.objective.random_steps((4, 1), g), head.objective.random_noise(x0.shape, g), clean)
    is_pad = padding() if padded else None
    left_out = torch.zeros(4, 16, dtype=torch.bool)
    for each in (clean, is_pad):
        left_out = left_out if each is None else left_out | each
    x_t = corrupt(head, x0, noise)
    if clean is not None:
        assert torch.equal((x_t == x0).all(-1), clean.expand(4, 16))
    values = head.step_values(modulation, noise.t)
    error = (head.predict(x_t, values, modulation) - x0).square().mean(-1)
    expected = error.mean() if clean is is_pad is None else error.masked_fill(left_out, 0).sum() / (~left_out).sum()
    assert torch.equal(denoising_loss(head, x0, noise, values, modulation, is_pad), expected)


@pytest.mark.parametrize(("prefixes", "padded"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("noise_samples", [1, 3])
def test_the_losses_of_the_chunks_are_the_shares_of_the_loss(noise_samples, prefixes, padded):
    """Their mean is the loss, and each depends on its own chunk alone."""
    policy, is_pad = trained_policy(tiny_head("mixer"), "film"), padding() if padded else None

    def loss(x, **options):
        options |= {"is_pad": is_pad, "prefixes": prefixes, "noise_samples": noise_samples}
        return policy.loss(x, conditions(), generator=generator(2), **options)

    each = loss(actions(), reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), loss(actions()), rtol=1e-5, atol=0)
    changed = actions()
    changed[2] = changed[2].flip(0)
    assert (loss(changed, reduction="none") != each).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="unknown reduction 'sum'; choose one of mean, none"):
        loss(actions(), reduction="sum")
