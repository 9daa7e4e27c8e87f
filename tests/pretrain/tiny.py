"""Settings of a pretraining run that takes a second."""

from __future__ import annotations

from action_heads.pretrain.settings import PretrainConfig


def tiny(out, **changes) -> PretrainConfig:
    given = {"out": out, "name": "test/tiny", "arch": "mlp", "width": 16, "depth": 2, "steps": 12, "batch_size": 8}
    return PretrainConfig.from_flat({**given, "save_every": 6, "precision": "fp32", **changes})
