"""Every benchmark explains itself with --help and refuses an unknown flag, before it measures or writes anything."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SLOW = {"latency", "lerobot_policies", "seams"}  # They import all of LeRobot.
SCRIPTS = [path for path in sorted(FOLDER.rglob("*.py")) if '__name__ == "__main__"' in path.read_text("utf-8")]


@pytest.fixture(autouse=True)
def needs_the_extras():
    """Benchmarks need the lab's packages, which the core's own environment lacks."""
    for name in ("transformers", "matplotlib", "action_heads_lab"):
        pytest.importorskip(name)


def run(monkeypatch: pytest.MonkeyPatch, path: Path, flag: str) -> object:
    """Run a script with one flag, and return the exit status."""
    monkeypatch.setattr(sys, "argv", [str(path), flag])
    monkeypatch.setattr(sys, "path", [str(path.parent), str(FOLDER), *sys.path])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    return stop.value.code


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in SCRIPTS]
)
def test_help_and_unknown_flags(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("COLUMNS", "160")  # so that tyro does not break the lines of the docstring
    assert run(monkeypatch, path, "--help") in (0, None)
    shown, doc = capsys.readouterr().out, ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert "--help" in shown
    lines = {" ".join(line.strip("│ ").split()) for line in shown.splitlines()}
    for command in re.findall(r"^ +uv run .+$", doc or "", re.MULTILINE):
        assert " ".join(command.split()) in lines
    assert run(monkeypatch, path, "--no-such-flag") not in (0, None)
    assert capsys.readouterr().err
