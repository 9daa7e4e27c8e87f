"""What a new user runs first, and the code of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def test_first_block_runs_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(ROOT / "README.md")[0], "README.md", "exec"), {})
    assert "frozen" in capsys.readouterr().out
    assert list(tmp_path.rglob("adapter.safetensors"))


def test_acting_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, names = ROOT / "docs" / "acting.md", {}
    assert len(blocks(page)) == 8
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    assert names["policy"].head.config.horizon == 50


def test_encoders_run_offline():
    pytest.importorskip("torchvision")
    page = ROOT / "docs" / "encoders.md"
    assert len(blocks(page)) == 1
    names = {}
    exec(compile(blocks(page)[0], str(page), "exec"), names)
    assert names["chunk"].shape == (4, 16, 10)


def test_speed_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("websockets")
    page, names = ROOT / "docs" / "speed.md", {}
    assert len(blocks(page)) == 5
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    assert (tmp_path / "policy.pt2").exists()
