"""torch's transformer layers with the weights of our branches, for tests that compare both."""

from __future__ import annotations

import torch
from torch import nn


def layers_of(net) -> list[tuple[nn.Module, nn.Module]]:
    """Return the branches of a `TransformerBackbone` in pairs: self-attention and MLP."""
    return list(zip(net.branches[::2], net.branches[1::2], strict=True))


def as_torch_s(kind: type, attention, mlp):
    """Return torch's encoder or decoder layer with the weights of our two branches."""
    width, hidden = mlp.up.in_features, mlp.up.out_features
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    layer = kind(width, max(1, width // 64), hidden, **options).train()  # Evaluation mode rounds differently.
    copy_attention(layer.self_attn, [attention.qkv], attention.out)
    pairs = ((layer.norm1, attention.norm), (layer.norm2, mlp.norm), (layer.linear1, mlp.up), (layer.linear2, mlp.down))
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    return layer


def copy_attention(theirs: nn.MultiheadAttention, projections: list[nn.Linear], out: nn.Linear) -> None:
    """Copy our projections of queries, keys and values, and of the output, into torch's attention."""
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in projections])
    theirs.in_proj_bias.data = torch.cat([p.bias.data for p in projections])
    theirs.out_proj.load_state_dict(out.state_dict())
