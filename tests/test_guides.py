"""The code of the guides runs, their commands have the flags they name, and the links of all pages lead somewhere."""

from __future__ import annotations

import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from pages import DOCS, ROOT, commands, run

from action_heads import ActionHead, Executor
from action_heads._util.flat import leaves
from action_heads.cli.commands import known

GUIDES, RESULTS = (sorted((DOCS / name).glob("*.md")) for name in ("guides", "results"))
# Commands of the environment of the repository.
OURS = {"action-heads", "python", "pytest", "torchrun", "lerobot-train", "lerobot-eval", "lerobot-rollout"}
REPOSITORY = "https://github.com/action-heads/action-heads/"


def test_the_guide_to_deployment_runs(tmp_path, monkeypatch):
    pytest.importorskip("websockets")
    monkeypatch.chdir(tmp_path)
    assert run(DOCS / "guides" / "deploy.md")["action"].shape == (1, 10)
    assert (tmp_path / "policy.pt2").exists()


def test_the_guide_to_evaluation_runs():
    pytest.importorskip("scipy")
    names = run(DOCS / "guides" / "evaluate.md")
    assert (round(names["low"], 2), round(names["high"], 2)) == (0.87, 0.99)
    assert names["policy"].num_trainable == names["random_frozen"].num_trainable < names["normal"].num_trainable
    env = SimpleNamespace(reset=lambda seed: None, step=lambda action: None, success=lambda: True)
    executor = Executor(names["policy"], steps=1)
    assert names["count_successes"](env, executor, lambda env: torch.zeros(1, 64), episodes=2) == 2


def test_the_guide_to_recordings_runs():
    names = run(DOCS / "guides" / "recordings.md")
    assert names["poses"].shape == (256, 16, 10)
    assert names["joints"].shape == (256, 16, 7)


def test_the_guide_to_pretraining_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ActionHead.from_pretrained("dae/mlp-0.7m-fk").save_pretrained("heads/mixer-0.7m-my-arm")
    assert run(DOCS / "guides" / "pretrain.md")["policy"].num_trainable


@pytest.mark.parametrize("page", [*GUIDES, *RESULTS], ids=lambda page: page.name)
def test_commands_have_the_flags_that_a_page_names(page):
    for words in commands(page):
        command = words[1 + words.index("action-heads") :][:1] if "action-heads" in words else []
        if not command or command[0] not in known() or not (settings := known()[command[0]].settings):
            continue
        module, name = settings.split(":")
        flags = {flag.replace("_", "-") for flag in leaves(getattr(import_module(module), name))}
        assert {word[2:] for word in words if word.startswith("--")} <= flags, words


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.name)
def test_commands_of_results_begin_with_uv_run(page):
    """They run in the environment of the repository, so that a block can be copied whole."""
    assert [words for words in commands(page) if words[0] in OURS] == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_to_headings_and_into_the_repository_lead_somewhere(page):
    """The site's strict build finds links to pages that do not exist; this finds headings and files that do not."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if target.startswith(REPOSITORY):
            assert (ROOT / path.partition("/main/")[2]).exists(), target
        elif anchor and "/" not in path:
            linked = (page.parent / path if path else page).read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles], target
