"""Settings of a pretraining run that takes a second."""

from __future__ import annotations

from action_heads.pretrain.settings import PretrainConfig


def tiny(out, **changes) -> PretrainConfig:
    given = {"out": out, "name": "test/tiny", "width": 16, "depth": 2, "steps": 12, "batch_size": 8, "save_every": 6}
    return PretrainConfig.from_flat({**given, "precision": "fp32", **changes})
