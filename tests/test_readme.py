"""Tests that the code of the README and the documentation runs."""

from __future__ import annotations

import re

import pytest
from pages import DOCS, ROOT, blocks, run

GUIDES = DOCS / "guides"


def test_first_block_runs_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(ROOT / "README.md")[0], "README.md", "exec"), {})
    assert "frozen" in capsys.readouterr().out
    assert list(tmp_path.rglob("adapter.safetensors"))


def test_links_work_on_pypi_and_lead_to_what_is_here():
    """Links use the repository address of pyproject.toml and none is relative, since PyPI has no such pages."""
    project, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "README.md"))
    (address,) = re.findall(r'^Repository = "(https://[^"]+)"$', project, re.MULTILINE)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", page)
    assert len(links) > 15
    assert [target for _, target in links if not target.startswith(("https://", "#"))] == []
    ours = [(image, target) for image, target in links if "github.com" in target]
    for image, target in ours:
        kind, _, path = target.removeprefix(f"{address}/").partition("/main/")
        assert (ROOT / path).exists(), target
        assert kind == ("raw" if image else "tree" if (ROOT / path).is_dir() else "blob"), target
    assert [image for image, _ in ours].count("!") == 1
    assert f"repository-code: {address}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for line in re.findall(r"^(?:Issues|Documentation|Changelog) = .*$", project, re.MULTILINE):
        assert f'"{address}/' in line


def test_acting_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = GUIDES / "act-in-real-time.md"
    assert len(blocks(page)) == 9
    assert run(page)["left"].shape == (4, 8, 10)


def test_other_actions_run_from_top_to_bottom():
    names = run(GUIDES / "other-actions.md")
    assert names["wide"].config.horizon == 50
    assert names["targets"].shape == (4, 16, 10)
    assert names["action"].shape == (4, 7)


def test_many_tasks_run_from_top_to_bottom():
    names = run(GUIDES / "many-tasks.md")
    assert len(names["bank"]) == 3
    assert names["chunk"].shape == (4, 16, 10)


def test_installing_runs():
    assert run(DOCS / "install.md")["chunk"].shape == (1, 16, 10)


def test_encoders_run_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("torchvision")
    page = GUIDES / "attach-encoder.md"
    assert len(blocks(page)) == 8
    assert run(page)["chunk"].shape == (4, 16, 10)


def test_the_papers_systems_run_by_name():
    page = GUIDES / "reproduce.md"
    assert len(blocks(page)) == 1
    assert run(page)["policy"].num_frozen == 4_782_346
