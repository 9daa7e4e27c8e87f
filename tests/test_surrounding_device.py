"""Heads and adapters are built where they belong, whatever `torch.device` surrounds the call, as in transformers."""

from __future__ import annotations

import pytest
import torch
from small import COND_DIM, conditions, generator, tiny_head, trained_policy
from torch import nn

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero


@pytest.fixture
def saved(tmp_path):
    head = tiny_head()
    head.save_pretrained(tmp_path / "head")
    trained_policy(head, "adaln_zero").save_adapter(tmp_path / "adapter")
    return tmp_path


def attached(folder):
    torch.manual_seed(0)
    adapter = AdaLNZero(COND_DIM)
    policy = ActionHead.from_pretrained(folder / "head").attach(adapter)
    return policy.eval()


def loaded(folder):
    return ActionHead.from_pretrained(folder / "head").load_adapter(folder / "adapter")


def reshaped(folder):
    torch.manual_seed(0)
    return ActionHead.from_pretrained(folder / "head").reshape(horizon=8)


WAYS = {"attach": attached, "load_adapter": loaded, "reshape": reshaped}


@pytest.mark.parametrize("way", WAYS)
def test_a_surrounding_meta_device_changes_no_bit(way, saved):
    expected = WAYS[way](saved)
    with torch.device("meta"):
        found = WAYS[way](saved)
    assert {tensor.device.type for tensor in (*found.parameters(), *found.buffers())} == {"cpu"}
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    found.head.assert_frozen(thorough=True) if hasattr(found, "head") else found.assert_frozen(thorough=True)


def test_a_head_on_meta_keeps_its_device():
    with torch.device("meta"):
        head = ActionHead(tiny_head().config).freeze()
    policy = head.attach(AdaLNZero(COND_DIM))
    assert {p.device.type for p in policy.parameters()} == {"meta"}


@pytest.mark.parametrize("again", ["train", "eval"])
def test_train_and_eval_freeze_again_what_another_library_put_in_place(again, saved):
    """So does transformers, which replaces every parameter by a trainable one that it has read from its own file."""
    policy = attached(saved)
    expected = policy.sample(conditions(1), generator=generator())
    for part in policy.head.modules():
        for name, p in list(part._parameters.items()):
            if p is not None:
                part._parameters[name] = nn.Parameter(p.detach().clone())
    with pytest.raises(RuntimeError, match=r"made trainable\. Call head\.freeze\(\)"):
        policy.sample(conditions(1))
    getattr(policy, again)()
    assert not any(p.requires_grad for p in policy.head.parameters())
    assert torch.equal(policy.sample(conditions(1), generator=generator()), expected)
    with torch.no_grad():
        next(policy.head.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="a frozen head was changed"):
        policy.sample(conditions(1))
