"""Tables and Figure 3 of the paper, as the settings in which the runs of one task and seed differ."""

from __future__ import annotations

from typing import Any

from action_heads_lab.reproduce.config import ALL_MODES

OWN = "own"  # a value of --stage1: the motion of the demonstrations, which the paper calls in-distribution
DROID = "lerobot:lerobot/droid_1.0.1"
TOKENS = ("cross_attention", "prefix")
MECHANISMS = ("adaln_zero", "adaln", "adarmsnorm", "film", "additive", *TOKENS)


def _by_film(backbone: str, mode: str, **changes: Any) -> dict[str, Any]:
    return {"backbone": backbone, "mode": mode, "adapter": "film", "through": "blocks", "relearn_step": True} | changes


def _by_mechanism(name: str, mode: str) -> dict[str, Any]:
    """Return settings that freeze what the paper freezes.

    For token mechanisms this includes the layers that read the tokens, for the others it is the backbone only.
    """
    changes = {"adapter": name, "relearn_step": name not in TOKENS, "signal": "joints"}
    return _by_film("transformer", mode, **changes)


STUDIES: dict[str, list[dict[str, Any]]] = {
    # Backbones: DP-C, DP-MLP and `mixer` with FiLM, DP-T with cross-attention.
    "table-2": [
        *(_by_film(backbone, mode) for backbone in ("unet", "mlp", "mixer") for mode in ALL_MODES),
        *(_by_mechanism("cross_attention", mode) for mode in ALL_MODES),
    ],
    # Data of Stage 1: the demonstrations, synthetic motion, DROID.
    "table-3": [
        *(_by_film("mlp", "decoupled", stage1=(source,)) for source in (OWN, "synthetic:panda", DROID)),
        *(_by_film("mlp", mode) for mode in ("normal", "random-frozen")),
    ],
    # Conditioning of Stage 1.
    "table-4": [
        *(_by_film("mlp", "decoupled", signal=signal) for signal in ("none", "pose", "joints", "code")),
        _by_film("mlp", "random-frozen"),
    ],
    # Mechanisms of modulation.
    "figure-3": [_by_mechanism(name, mode) for name in MECHANISMS for mode in ALL_MODES],
}
