"""The README's first code block is what a new user runs first."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_first_block_runs_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    exec(compile(block[1], str(README), "exec"), {})
    assert "frozen" in capsys.readouterr().out
    assert list(tmp_path.rglob("adapter.safetensors"))
