"""Tests of the head's config: round trips, and strict checks."""

from __future__ import annotations

import dataclasses
import json

import pytest
from small import tiny_config

from action_heads import EE_DELTA, HeadConfig, ObjectiveConfig
from action_heads.config import VERSION


@pytest.mark.parametrize(
    "config",
    [
        HeadConfig(),
        tiny_config(backbone="mixer", mechanisms=("film",), space=EE_DELTA, training={"data": ["a"], "steps": 3}),
        tiny_config(objective=ObjectiveConfig("epsilon", 50, 2.0), fingerprint="ab"),
    ],
)
def test_round_trip(config):
    assert HeadConfig.from_dict(json.loads(config.to_json())) == config


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HeadConfig().width = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be a positive integer"),
        ({"width": 15}, "width must be even"),
        ({"width": 2}, "width must be even and at least 4"),
        ({"depth": 1.5}, "depth must be a positive integer"),
        ({"backbone": "gru"}, "choose one of mlp, mixer"),
        ({"mechanisms": ("prefix",)}, r"mlp does not support 'prefix'; it supports film, additive"),
    ],
)
def test_bad_values(wrong, message):
    with pytest.raises(ValueError, match=message):
        HeadConfig(**wrong)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (VERSION - 1, "An older release wrote it: pretrain the head again, or install that release"),
        (VERSION + 1, "Upgrade with"),
        (None, "Upgrade with"),
    ],
)
def test_another_version_names_its_remedy(version, remedy):
    with pytest.raises(ValueError, match=f"version {version}, .*{remedy}"):
        HeadConfig.from_dict(HeadConfig().to_dict() | {"version": version})
