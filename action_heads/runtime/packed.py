"""A head whose linear layers are packed for oneDNN: most of the speedup on a CPU, without a compiler.

In fp32, torch multiplies with MKL and packs the weights again in every call. For the few rows of one chunk this takes
as long as the product, and on AMD's processors MKL is slower than oneDNN. The operators used here are those that
torch's own compiler, inductor, calls.

Axes: `...` leading, i inputs, o outputs, r rows.
"""

from __future__ import annotations

import functools
from typing import TypeGuard

import torch
from torch import Tensor, nn

from action_heads.backbones import Backbone
from action_heads.backbones.mlp import MLPBlock
from action_heads.backbones.transformer import FeedForward
from action_heads.denoiser import Denoiser
from action_heads.runtime.shared_weights import FastHead, rebuilt

SMALL = 64 * 64  # A layer of fewer weights takes longer to call than to compute.


class PackedLinear(nn.Module):
    """A linear layer W x + b, with GELU if asked for, and W (o i) in oneDNN's layout for r rows. It has no gradients.

    The product uses `dtype` and sums in float32. The output has the dtype of the input.
    """

    def __init__(self, linear: nn.Linear, rows: int, dtype: torch.dtype, gelu: bool = False):
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        self.packed, self.dtype = torch.ops.mkldnn._reorder_linear_weight(weight, rows), dtype
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.after, self.algorithm = ("gelu", "none") if gelu else ("none", "")  # "none" of two GELUs is the exact one
        self.shape = tuple(weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map (... i) to (... o)."""
        x_cast = x.to(self.dtype)
        return torch.ops.mkldnn._linear_pointwise(x_cast, self.packed, self.bias, self.after, [], self.algorithm).to(x)

    def extra_repr(self) -> str:
        return f"{self.shape[1]} -> {self.shape[0]}{', GELU' if self.after == 'gelu' else ''}"


class PackedHead(FastHead):
    """A head packed for single chunks. Only the linear layers use bfloat16; norms and sums keep 32 bits."""

    def __init__(self, head: Denoiser, dtype: torch.dtype):
        super().__init__(head, dtype if dtype == torch.float32 else head.dtype)
        rows, keep = head.config.horizon, kept(self.backbone)

        def replace(part: nn.Module) -> nn.Module | None:
            if part in keep:
                return part
            if isinstance(part, MLPBlock | FeedForward) and type(part.act) is nn.GELU:
                block = rebuilt(part, replace)
                block._modules |= {"up": PackedLinear(part.up, rows, dtype, gelu=True), "act": nn.Identity()}
                return block
            return PackedLinear(part, rows, dtype) if worth_packing(part) else None

        with torch.inference_mode(False), torch.no_grad():
            self.backbone = rebuilt(self.backbone, replace)


def worth_packing(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and module.weight.numel() >= SMALL


def kept(backbone: Backbone) -> tuple[nn.Module, ...]:
    """Return the parts that stay as they are: projections, which may train, and the step embedding."""
    return *backbone.projections, backbone.step


def why_not_packed(head: Denoiser, dtype: torch.dtype) -> str:
    """Return why a head can't be packed in a precision, or an empty string."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "this torch was built without oneDNN"
    if head.device.type != "cpu":
        return "oneDNN's layout is for CPUs"
    left = {module for part in kept(head.backbone) for module in part.modules()}
    if not any(worth_packing(module) for module in head.backbone.modules() if module not in left):
        return f"{head.config.backbone} has no linear layer that is worth packing"
    return "" if can_pack(dtype) else f"oneDNN multiplies no {str(dtype).removeprefix('torch.')} on this processor"


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN can multiply matrices of a dtype on this processor."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), 1)
    except RuntimeError:
        return False
    return True
