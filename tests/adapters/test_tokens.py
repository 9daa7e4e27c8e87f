"""Tests of the mechanisms whose modulation values are tokens, and of the layers that read them."""

from __future__ import annotations

import copy

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_config, tiny_head, trained_policy
from torch import nn
from torch_layers import as_torch_s, copy_attention, layers_of

from action_heads import ActionHead
from action_heads.adapters import ADAPTERS
from action_heads.adapters.tokens import TokenAdapter
from action_heads.backbones import BACKBONES
from action_heads.fit import FitConfig, fit

TOKENS = [name for name, adapter in ADAPTERS.items() if issubclass(adapter, TokenAdapter)]
FIT = FitConfig(steps=3, batch_size=8, precision="fp32")


def token_head(mechanism: str, **changes) -> ActionHead:
    return tiny_head("transformer", mechanisms=(mechanism,), **changes)


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("mechanism", TOKENS)
def test_one_set_of_tokens_for_the_whole_network(mechanism):
    head, adapter = token_head(mechanism), ADAPTERS[mechanism]
    assert head.modulation_of(mechanism).values == adapter.tokens * head.config.width
    assert not adapter.per_position
    values = torch.arange(2.0 * adapter.tokens * 3).reshape(2, 1, -1)
    tokens = adapter.as_tokens(values)
    assert tokens.shape == (2, adapter.tokens, 3)
    assert torch.equal(tokens[1, 2], values[1, 0, 6:9])


@pytest.mark.parametrize("mechanism", TOKENS)
def test_every_token_reaches_every_step(mechanism):
    policy = trained_policy(token_head(mechanism), mechanism)
    x, values = torch.randn(1, 16, 10, generator=generator()), policy.step_values(torch.tensor([[50]]))

    def denoise(values):
        return policy.head.predict(x, values, policy.modulation)[0]

    jacobian = torch.autograd.functional.jacobian(denoise, values)  # (h a, 1 1 P)
    by_token = jacobian.flatten(2).unflatten(-1, (policy.adapter.tokens, -1)).abs().sum((1, 3))
    assert (by_token > 0).all()  # (h n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mechanism", TOKENS)
def test_fresh_is_unconditional_where_one_row_stood_for_the_batch(mechanism, dtype):
    """A fresh adapter is unconditional in bfloat16 too, where a product of one repeated row rounds differently."""
    head = token_head(mechanism, width=64).to(dtype)
    conditioned = head.attach(ADAPTERS[mechanism](COND_DIM)).sample(conditions(16), steps=3, generator=generator())
    assert torch.equal(conditioned, head.sample(16, steps=3, generator=generator()))


@pytest.mark.parametrize("relearn_step", [False, True])
def test_who_trains_the_layers_of_cross_attention(relearn_step):
    """The layers are frozen with the head, unless the adapter relearns them; parameter counts and names agree."""
    head = token_head("cross_attention")
    policy = head.attach(ADAPTERS["cross_attention"](COND_DIM, relearn_step=relearn_step))
    of_head, of_adapter = bits(head), bits(policy.adapter)
    layers = [name for name in of_head if name.startswith("modulation.cross_attention.layers.")]
    assert len(layers) == head.config.depth * 8  # A weight and a bias for each norm and three projections.
    size = sum(of_head[name].numel() for name in layers)
    assert size == sum(p.numel() for p in head.modulation_of("cross_attention").layers.parameters())
    fit(policy, actions(32), conditions(32), config=FIT)
    assert moved(head, of_head) == set()
    assert moved(policy.adapter, of_adapter) == {name for name, _ in policy.adapter.named_parameters()}
    own = [name for name, _ in policy.adapter.named_parameters() if name.startswith("step.layers.")]
    assert len(own) == (len(layers) if relearn_step else 0)
    modulation = sum(p.numel() for p in head.modulation_of("cross_attention").parameters())
    backbone = sum(p.numel() for p in head.backbone.parameters())
    assert policy.num_frozen == backbone + (0 if relearn_step else modulation)
    read = sum(p.numel() for name, p in policy.adapter.named_parameters() if not name.startswith("step."))
    assert policy.num_trainable == read + (modulation if relearn_step else 0)


def test_other_mechanisms_neither_have_the_layers_nor_count_them():
    head = tiny_head("transformer")
    owners = {name.split(".")[1] for name in head.state_dict() if ".layers." in name}
    assert owners == {"cross_attention"}
    plain = tiny_head("transformer", mechanisms=("prefix",)).attach(ADAPTERS["prefix"](COND_DIM))
    assert head.attach(ADAPTERS["prefix"](COND_DIM)).num_frozen == plain.num_frozen


def test_relearned_layers_stay_in_32_bits_on_a_half_precision_head():
    full = token_head("cross_attention")
    reference = trained_policy(full, "cross_attention", relearn_step=True)
    policy = copy.deepcopy(full).to(torch.bfloat16).attach(ADAPTERS["cross_attention"](COND_DIM, relearn_step=True))
    assert {p.dtype for p in policy.adapter.step.parameters()} == {torch.float32}
    policy.adapter.load_state_dict(reference.adapter.state_dict())
    a, b = (p.sample(conditions(), generator=generator()) for p in (policy, reference))
    assert 0 < (a - b).abs().mean() < 0.02


def test_prefix_is_self_attention_over_more_tokens():
    """Prefix tokens give the same chunk as torch's encoder layers over the tokens and the chunk."""
    head = token_head("prefix")
    net, modulation = head.backbone, head.modulation_of("prefix")
    x, values = torch.randn(3, 16, 10), torch.randn(3, 1, modulation.values)
    with torch.no_grad():
        theirs = torch.cat([values.reshape(3, 8, 16), net.embed(x)], dim=1)
        for attention, mlp in layers_of(net):
            theirs = as_torch_s(nn.TransformerEncoderLayer, attention, mlp)(theirs)
        theirs = net.out(net.norm(theirs))[:, 8:]
        torch.testing.assert_close(net(x, modulation.at_sites(values)), theirs, rtol=1e-4, atol=1e-5)


def test_cross_attention_is_torch_s_decoder_without_a_mask():
    head = token_head("cross_attention")
    net, modulation = head.backbone, head.modulation_of("cross_attention")
    x, values = torch.randn(3, 16, 10), torch.randn(3, 1, modulation.values)
    with torch.no_grad():
        theirs = net.embed(x)
        for (attention, mlp), cross in zip(layers_of(net), modulation.layers, strict=True):
            layer = as_torch_s(nn.TransformerDecoderLayer, attention, mlp)
            copy_attention(layer.multihead_attn, [cross.query, cross.key_value], cross.out)
            layer.norm2.load_state_dict(cross.norm.state_dict())
            layer.norm3.load_state_dict(mlp.norm.state_dict())
            theirs = layer(theirs, values.reshape(3, 8, 16))
        theirs = net.out(net.norm(theirs))
        torch.testing.assert_close(net(x, modulation.at_sites(values)), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "mechanism"),
    [(name, m) for name in BACKBONES for m in TOKENS if m not in BACKBONES[name].mechanisms],
)
def test_backbones_that_attend_to_nothing_refuse(backbone, mechanism):
    message = f"{backbone} does not support '{mechanism}'.*acts on layers that it does not have"
    with pytest.raises(ValueError, match=message):
        tiny_config(backbone, mechanisms=(mechanism,))
