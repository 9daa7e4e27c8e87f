"""The flags of LeRobot's commands on all pages exist, and the recipe for images is the one that was measured."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import draccus
import pytest
from pages import DOCS, ROOT, commands

from action_heads.adapt.settings import AdaptConfig
from action_heads.cli.command_line import parse
from action_heads.encoders import TextConfig, VisionConfig, VLMConfig
from lerobot_policy_dae import DAEConfig

PARTS = {"vision": VisionConfig, "text": TextConfig, "vlm": VLMConfig}
FLAGS = {entry.name for entry in fields(DAEConfig)} - {*PARTS} | {"type", "path"}
FLAGS |= {f"{part}.{entry.name}" for part, kind in PARTS.items() for entry in fields(kind)}
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def named(text: str) -> set[str]:
    """Return the names of the policy's flags in a text."""
    return {name.rstrip(".") for name in re.findall(r"--policy\.([\w.]+)", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_policy_flag_on_a_page_exists(page):
    assert named(page.read_text(encoding="utf-8")) <= FLAGS


def test_the_flags_are_found():
    assert len(named((DOCS / "guides" / "lerobot.md").read_text(encoding="utf-8"))) > 20
    assert named("--policy.vision.pooling=keypoints.") == {"vision.pooling"}


def test_the_recipe_for_images_is_the_measured_one():
    """The guides to `adapt` and to LeRobot name one recipe, which has a row in the results."""
    (words,) = [words for words in commands(DOCS / "guides" / "adapt.md") if "keypoints" in words]
    ours = parse(AdaptConfig, words[2:], "action-heads adapt")
    page = commands(DOCS / "guides" / "lerobot.md")
    (words,) = [words for words in page if "--policy.vision.pool=keypoints" in words]
    flags = [word.replace("--policy.", "--") for word in words if re.match(r"--policy\.(?!type|push)", word)]
    theirs = draccus.parse(DAEConfig, args=flags)

    assert ours.vision.train_encoder == "cached"
    assert theirs.remember
    assert not theirs.vision.train
    vision = ours.vision.encoder, ours.vision.pool, ours.vision.stride
    assert vision == (theirs.vision.backbone, theirs.vision.pool, theirs.vision.stride)
    recipe = {"through": ours.adapter.through, "hidden": ours.adapter.hidden_dim, "lr": ours.optimiser.lr}
    assert recipe == {"through": theirs.through, "hidden": theirs.hidden_dim, "lr": theirs.optimizer_lr}
    recipe |= {"task": "Lift", "mode": "decoupled", "steps": ours.optimiser.steps}
    assert f"--steps={ours.optimiser.steps}" in words
    rows = json.loads((ROOT / "benchmarks" / "results" / "images.json").read_text(encoding="utf-8"))["results"]
    assert [row for row in rows if row.items() >= recipe.items()]
