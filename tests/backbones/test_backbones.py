"""Tests of the backbones against the paper's parameter counts and equations, and of how they mix time steps."""

from __future__ import annotations

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy
from torch import nn
from torch_layers import as_torch_s, layers_of

from action_heads import ActionHead, HeadConfig
from action_heads._util.mixing import MIXES_TIME
from action_heads.adapters import FiLM
from action_heads.adapters.base import Modulation
from action_heads.adapters.film import FiLMModulation
from action_heads.backbones import UNetBackbone


def test_paper_size():
    """DP-MLP has the paper's 4.78M parameters (section III-B), with the step embedding, without FiLM generators."""
    head = ActionHead(HeadConfig()).freeze()
    assert sum(p.numel() for p in head.backbone.parameters()) == 4_782_346
    assert head.attach(FiLM(512, relearn_step=True)).num_frozen == 4_782_346


def test_film_is_dp_mlp():
    """The paper's equations, written out again, give the same numbers with the same weights."""
    net = ActionHead(HeadConfig(width=32, depth=2)).backbone
    x, values = torch.randn(3, 16, 10), [torch.randn(3, 1, 2 * 128) for _ in range(2)]
    with torch.no_grad():
        ours = net(x, [FiLMModulation(v) for v in values])
        h = torch.stack([x[:, i] @ net.embed.weight[i] + net.embed.bias[i] for i in range(16)], dim=1)
        for block, v in zip(net.blocks, values, strict=True):
            scale, shift = v[..., :128], v[..., 128:]
            hidden = nn.functional.gelu(h @ block.up.weight.T + block.up.bias) * (1 + scale) + shift
            h = h + hidden @ block.down.weight.T + block.down.bias
            h = nn.functional.layer_norm(h, (32,), block.norm.weight, block.norm.bias)
        h = nn.functional.layer_norm(h, (32,), net.norm.weight, net.norm.bias)
        theirs = h @ net.out.weight.T + net.out.bias
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_transformer_size():
    """Eight layers of the paper's DP-T at width 256 have 6,853,642 parameters."""
    net = ActionHead(HeadConfig(backbone="transformer")).backbone
    assert sum(p.numel() for p in net.parameters()) == 6_853_642


@pytest.mark.parametrize("width", [16, 128, 160])
def test_transformer_is_torch_s(width):
    """Each layer equals torch's `nn.TransformerEncoderLayer` with the same weights, for one head and for two."""
    net = ActionHead(HeadConfig(backbone="transformer", width=width, depth=2)).backbone
    x = torch.randn(3, 16, 10)
    with torch.no_grad():
        y = net.embed.linear(x) + net.embed.positions
        for attention, mlp in layers_of(net):
            y = as_torch_s(nn.TransformerEncoderLayer, attention, mlp)(y)
        theirs = net.out(net.norm(y))
        ours = net(x, [Modulation(torch.zeros(3, 1, 0)) for _ in net.sites])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_width_that_heads_can_t_share_is_refused():
    with pytest.raises(ValueError, match="width 200 cannot be divided by 3 attention heads; choose a multiple of 64"):
        ActionHead(HeadConfig(backbone="transformer", width=200))


def test_step_embedding_is_diffusion_policys():
    """The sinusoids are those of Diffusion Policy: sines first, frequencies 10000^(-i / (w/2 - 1))."""
    step = ActionHead(HeadConfig(width=32, depth=1)).backbone.step
    t = torch.tensor([0, 7, 99])
    angles = t[:, None] * torch.tensor([10000 ** (-i / 15) for i in range(16)])
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    torch.testing.assert_close(step(t), nn.functional.mish(step.mlp(waves)), rtol=1e-4, atol=1e-5)


def test_unet_has_the_papers_size():
    """DP-C has the paper's 244M parameters (section III-B), exactly as many as Diffusion Policy's own code."""
    with torch.device("meta"):
        net = UNetBackbone(action_dim=10, horizon=16, width=512, depth=3, expansion=4)
    assert sum(p.numel() for p in net.parameters()) == 244_451_082


def convolved(x: torch.Tensor, conv: nn.Conv1d, stride: int = 1) -> torch.Tensor:
    """Return the convolution of x (b i h), padded with zeros, window by window."""
    side = conv.weight.shape[-1] // 2
    windows = nn.functional.pad(x, (side, side)).unfold(2, conv.weight.shape[-1], stride)
    return torch.einsum("bihk,oik->boh", windows, conv.weight) + conv.bias[:, None]


def spread(x: torch.Tensor, conv: nn.ConvTranspose1d) -> torch.Tensor:
    """Return the transposed convolution of x (b u h), which doubles the time steps."""
    y = torch.zeros(*x.shape[:2], 2 * x.shape[2] + 2)
    for i in range(x.shape[2]):
        y[:, :, 2 * i : 2 * i + 4] += torch.einsum("bi,iok->bok", x[:, :, i], conv.weight)
    return y[:, :, 1:-1] + conv.bias[:, None]


def grouped(x: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    """Normalise 8 groups of channels, each over its channels and all time steps, then apply Mish."""
    groups = x.reshape(len(x), 8, -1)
    y = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    y = y.reshape(x.shape) * norm.weight[:, None] + norm.bias[:, None]
    return y * torch.log1p(y.exp()).tanh()


def test_film_is_dp_c():
    """Diffusion Policy's U-Net, written out again, gives the same numbers with the same weights."""
    net = ActionHead(HeadConfig(backbone="unet", width=16, depth=2, horizon=8)).backbone
    x, values = torch.randn(3, 8, 10), [torch.randn(3, 1, 2 * site.hidden) for site in net.sites]
    per_site = iter(values)

    def block(x, net, enter=None):
        enter, value = enter or net.enter, next(per_site)[:, 0, :, None]
        scale, shift = value.chunk(2, dim=1)
        y = grouped(convolved(x, enter.branch), net.norm) * (1 + scale) + shift
        y = grouped(convolved(y, net.conv), net.norm_after)
        return y + (x if isinstance(enter.stream, nn.Identity) else convolved(x, enter.stream))

    with torch.no_grad():
        ours = net(x, [FiLMModulation(v) for v in values])
        h = block(block(x.mT, net.down[0].first, net.embed), net.down[0].second)
        low = block(block(convolved(h, net.shrink[0], stride=2), net.down[1].first), net.down[1].second)
        h = block(block(low, net.middle.first), net.middle.second)
        h = block(block(torch.cat([h, low], dim=1), net.up[0].first), net.up[0].second)
        h = grouped(convolved(spread(h, net.grow[0]), net.conv), net.norm)
        theirs = convolved(h, net.out).mT
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"horizon": 10}, "halves the horizon 2 times, so .* must be a multiple of 4; got 10. Use 8, for example"),
        ({"horizon": 15}, "got 15. Use 16"),
        ({"horizon": 1}, "got 1. Use 4"),
        ({"depth": 8}, "a unet of depth 8 .* a multiple of 128"),
        ({"width": 20}, "must be a multiple of 8, its number of groups; got 20"),
        ({"mechanisms": ("adaln",)}, "unet does not support 'adaln'; it supports film. adaln acts on layers that it"),
    ],
)
def test_shapes_that_no_unet_has_are_refused_by_the_config(wrong, message):
    with pytest.raises(ValueError, match=message):
        HeadConfig(**{"backbone": "unet", "width": 16, "depth": 3} | wrong)


def time_jacobian(name: str) -> torch.Tensor:
    """Return the influence (16, 16) of the input at time step j on the output at time step i."""
    policy = trained_policy(tiny_head(name))
    values = policy.step_values(torch.tensor([[50]])) + policy.modulate(conditions(1))

    def denoise(x):
        return policy.head.predict(x[None], values, policy.modulation)[0]

    return torch.autograd.functional.jacobian(denoise, torch.randn(16, 10, generator=generator())).abs().sum((1, 3))


def test_mlp_never_mixes_time():
    jacobian = time_jacobian("mlp")
    assert (jacobian.diagonal() > 0).all()
    assert (jacobian - jacobian.diag().diag() == 0).all()


@pytest.mark.parametrize("name", ["mixer", "transformer"])
def test_every_step_moves_every_other(name):
    assert (time_jacobian(name) > 0).all()


def test_declared_mixing_is_true(head):
    jacobian = time_jacobian(head.config.backbone)
    assert head.backbone.mixes_time == bool((jacobian - jacobian.diag().diag()).any())
    assert head.backbone.mixes_time is MIXES_TIME[head.config.backbone], "the list of heads reads this table"
