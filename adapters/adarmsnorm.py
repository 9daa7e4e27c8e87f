"""adaRMSNorm (π0.5, arXiv 2504.16054): as AdaLN-Zero, with root-mean-square norms in the blocks.

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor, nn

from action_heads.adapters.adaln import AdaLNZero, AdaLNZeroModulation


class AdaRMSNormModulation(AdaLNZeroModulation):
    def normalize(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return nn.functional.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)


class AdaRMSNorm(AdaLNZero):
    """Scale, shift and gate around RMS-normalised activations, the three that openpi's action expert uses."""

    name = "adarmsnorm"
    modulation = AdaRMSNormModulation
