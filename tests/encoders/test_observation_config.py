"""The config converts to JSON and back, and its errors name the field."""

from __future__ import annotations

import json

import pytest

from action_heads.encoders import ObservationConfig, TextConfig, VisionConfig, VLMConfig

FULL = ObservationConfig(
    ("front", "wrist"), 7, 1, VisionConfig("facebook/dinov2-small", train=False, crop=(76, 76)), TextConfig(features=32)
)


@pytest.mark.parametrize("config", [FULL, ObservationConfig(state_dim=3)])
def test_json_there_and_back(config):
    assert ObservationConfig.from_dict(json.loads(config.to_json())) == config


def test_a_frozen_model_of_an_older_file():
    """Files of older releases call the training of a frozen VLM "none"."""
    config = ObservationConfig(("front",), vlm=VLMConfig("org/vlm"))
    before = config.to_dict()
    assert before["vlm"]["train"] == "frozen"
    before["vlm"]["train"] = "none"
    assert ObservationConfig.from_dict(before) == config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VisionConfig(features=63), r"vision.features .* even number, got 63"),
        (lambda: VisionConfig(features=0), r"vision.features must be a positive integer, got 0"),
        (lambda: VisionConfig(crop=76), r"vision.crop must be \(height, width\) in pixels, got 76"),
        (lambda: VisionConfig(resize=(64, 64), crop=(76, 60)), r"vision.crop .* larger .* vision.resize"),
        (lambda: VisionConfig(jitter=1.0), r"vision.jitter"),
        (lambda: VisionConfig(train=False), r"can't be frozen: set vision.weights='imagenet'"),
        (lambda: VisionConfig("facebook/dinov2-small", weights="imagenet"), r"vision.weights is only for resnet18"),
        (lambda: VisionConfig(weights="r3m"), r"vision.weights must be 'imagenet' or none, got 'r3m'"),
        (lambda: VisionConfig(pool="max"), r"unknown vision.pool 'max'"),
        (lambda: TextConfig(pool="max"), r"unknown text.pool 'max'"),
        (lambda: ObservationConfig(), r"no observations"),
        (lambda: ObservationConfig("front"), r"pass \('front',\)"),  # type: ignore[arg-type]
        (lambda: ObservationConfig(("a", "a")), r"cameras has a duplicate name"),
        (lambda: ObservationConfig(("a",), observation_steps=0), r"observation_steps must be a positive integer"),
        (lambda: ObservationConfig(state_dim=-1), r"state_dim"),
        (lambda: ObservationConfig.from_dict(FULL.to_dict() | {"version": 9}), r"has version 9"),
        (lambda: ObservationConfig.from_dict(FULL.to_dict() | {"depth": True}), r"unknown keys .*: depth"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()
