"""A child process of a test imports the packages that the test does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from child import environment


def test_a_child_imports_from_its_folders_and_then_from_where_its_parent_does(tmp_path, monkeypatch):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder, values in ((mine, {"own": 1}), (theirs, {"own": 2, "action_heads": 2})):
        folder.mkdir()
        for name, value in values.items():
            (folder / f"{name}.py").write_text(f"value = {value}")
    monkeypatch.syspath_prepend(str(theirs))  # as the packages of a worktree come before the installed ones
    code = "import own, action_heads; print(own.value, action_heads.value)"
    command = [sys.executable, "-c", code]
    child: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run(command, env=environment(mine, SEEN="1"), **child)
    assert done.stdout.split() == ["1", "2"], done.stderr
    assert environment(SEEN="1")["SEEN"] == "1"
