"""The paper's tables and its Figure 3, as what differs between the runs of one task and seed."""

from __future__ import annotations

from typing import Any

from action_heads_lab.reproduce.config import ALL_MODES

OWN = "own"  # as data of Stage 1: the motion of the demonstrations, which the paper calls in-distribution
DROID = "lerobot:lerobot/droid_1.0.1"
TOKENS = ("cross_attention", "prefix")
MECHANISMS = ("adaln_zero", "adaln", "adarmsnorm", "film", "additive", *TOKENS)


def _by_film(backbone: str, mode: str, **changes: Any) -> dict[str, Any]:
    return {"backbone": backbone, "mode": mode, "adapter": "film", "through": "blocks", "relearn_step": True} | changes


def _by_mechanism(name: str, mode: str) -> dict[str, Any]:
    """Frozen as the paper freezes: of tokens all that reads them too, of a modulation the backbone alone."""
    changes = {"adapter": name, "relearn_step": name not in TOKENS, "signal": "joints"}
    return _by_film("transformer", mode, **changes)


STUDIES: dict[str, list[dict[str, Any]]] = {
    # Backbones: DP-C and DP-MLP by FiLM, DP-T by cross-attention, and `mixer`.
    "table-2": [
        *(_by_film(backbone, mode) for backbone in ("unet", "mlp", "mixer") for mode in ALL_MODES),
        *(_by_mechanism("cross_attention", mode) for mode in ALL_MODES),
    ],
    # What Stage 1 learns from: the demonstrations, our synthetic motion, DROID.
    "table-3": [
        *(_by_film("mlp", "decoupled", stage1=(source,)) for source in (OWN, "synthetic:panda", DROID)),
        *(_by_film("mlp", mode) for mode in ("normal", "random-frozen")),
    ],
    # What conditions Stage 1.
    "table-4": [
        *(_by_film("mlp", "decoupled", signal=signal) for signal in ("none", "pose", "joints", "code")),
        _by_film("mlp", "random-frozen"),
    ],
    # Which mechanisms survive freezing.
    "figure-3": [_by_mechanism(name, mode) for name in MECHANISMS for mode in ALL_MODES],
}
