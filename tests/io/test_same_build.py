"""Saving refuses what loading would not give back, keeps an older file, and loses no weights."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from action_heads import ActionHead, ConditionedHead, HeadConfig
from action_heads.adapter_file import NAME
from action_heads.adapters import ADAPTERS, FiLM


@pytest.fixture
def head():
    return ActionHead(HeadConfig(name="me/tiny", width=16, depth=2)).freeze()


def wrapped(policy):
    policy.adapter = torch.compile(policy.adapter)


def wrapped_in_part(policy):
    policy.adapter.read = torch.compile(policy.adapter.read)


def normed(policy):
    parametrizations.weight_norm(policy.adapter.read[0])


def pruned(policy):
    prune.l1_unstructured(policy.adapter.read[0], "weight", 0.5)


def replaced(policy):
    policy.adapter.read[1] = nn.Tanh()


def inserted(policy):
    policy.adapter.read.append(nn.Dropout(0.5))


def resized(policy):
    policy.adapter.aim = nn.Linear(policy.adapter.aim.in_features, 3)


def buffered(policy):
    policy.adapter.register_buffer("count", torch.zeros(1))


CHANGES = [wrapped, wrapped_in_part, normed, pruned, replaced, inserted, resized, buffered]


@pytest.mark.parametrize("change", CHANGES)
def test_an_adapter_that_would_load_as_another_is_not_written(head, change, tmp_path):
    policy = head.attach(FiLM(cond_dim=4))
    before = policy.save_adapter(tmp_path).joinpath(NAME).read_bytes()
    change(policy)
    with pytest.raises(ValueError, match="was not written, since loading would not give this"):
        policy.save_adapter(tmp_path)
    assert (tmp_path / NAME).read_bytes() == before
    kept = safetensors.torch.load_file(tmp_path / "adapter-as-it-is.safetensors")
    expected = policy.adapter.state_dict()
    assert kept.keys() == {f"adapter.{name}" for name in expected}
    assert all(torch.equal(kept[f"adapter.{name}"], tensor) for name, tensor in expected.items())


def test_the_remedies_work(head, tmp_path):
    policy = head.attach(FiLM(cond_dim=4))
    wrapped(policy)
    normed(policy)
    with pytest.raises(ValueError, match="_orig_mod"):
        policy.save_adapter(tmp_path)
    policy.adapter = policy.adapter._orig_mod
    with pytest.raises(ValueError, match="remove_parametrizations"):
        policy.save_adapter(tmp_path)
    nn.utils.parametrize.remove_parametrizations(policy.adapter.read[0], "weight")
    policy.adapter.compile()
    cond = torch.randn(2, 4)
    loaded = ConditionedHead.from_pretrained(policy.save_adapter(tmp_path), head=head)
    assert all(
        torch.equal(tensor, loaded.adapter.state_dict()[name]) for name, tensor in policy.adapter.state_dict().items()
    )
    assert loaded.sample(cond).shape == (2, 16, 10)


def test_a_class_of_ones_own_is_not_saved_under_a_name_of_the_library(head, tmp_path):
    class Mine(FiLM):
        def forward(self, *args, **options):
            return 3 * super().forward(*args, **options)

    with pytest.raises(ValueError, match=r"it is Mine.*loading would build FiLM"):
        head.attach(Mine(cond_dim=4)).save_adapter(tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"relearn_step": True}, {"through": "code", "hidden_dim": 8}, {"pool": "attention"}]
)
@pytest.mark.parametrize("mechanism", ["film", "adaln_zero", "adarmsnorm"])
def test_every_adapter_of_the_library_is_as_loading_builds_it(head, mechanism, options, tmp_path):
    policy = head.attach(ADAPTERS[mechanism](4, **options))
    assert (policy.save_adapter(tmp_path) / NAME).exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors") == [NAME]


def test_a_head_that_would_load_as_another_is_not_written(tmp_path):
    head = ActionHead(HeadConfig(name="me/tiny", width=16, depth=2))
    head.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    head.backbone = torch.compile(head.backbone)
    with pytest.raises(ValueError, match="was not written"):
        head.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
