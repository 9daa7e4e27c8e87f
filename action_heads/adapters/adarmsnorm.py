"""adaRMSNorm (π0.5, arXiv 2504.16054): as AdaLN-Zero, with root-mean-square norms in the blocks.

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor, nn

from action_heads.adapters.adaln import AdaLNZero, AdaLNZeroModulation


class AdaRMSNormModulation(AdaLNZeroModulation):
    def normalize(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        y = nn.functional.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)
        # An RMS norm has no bias. Where the head trains along, its bias gets the gradient zero, which DDP waits for.
        return y + 0 * norm.bias if norm.bias is not None and norm.bias.requires_grad else y


class AdaRMSNorm(AdaLNZero):
    """Scale, shift and gate around RMS-normalised activations, the three that openpi's action expert uses."""

    name = "adarmsnorm"
    modulation = AdaRMSNormModulation
    rms = True
