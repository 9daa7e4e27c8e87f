"""adaRMSNorm (π0.5, arXiv 2504.16054): AdaLN-Zero with root-mean-square norms in the blocks.

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor, nn

from action_heads.adapters.adaln import AdaLNZero, AdaLNZeroModulation


class AdaRMSNormModulation(AdaLNZeroModulation):
    """Scale, shift and gate, in a block whose layer norms become root-mean-square norms."""

    def normalize(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        y = nn.functional.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)
        # An RMS norm has no bias. If the head trains along, its unused bias gets a zero gradient, since DDP waits for
        # the gradient of every parameter.
        return y + 0 * norm.bias if norm.bias is not None and norm.bias.requires_grad else y


class AdaRMSNorm(AdaLNZero):
    """An adapter by adaRMSNorm: scale, shift and gate around RMS-normalised activations.

    The action expert of π0.5 uses the same three (arXiv 2504.16054, openpi). See `Adapter` for the arguments.
    """

    name = "adarmsnorm"
    modulation = AdaRMSNormModulation
    rms = True
