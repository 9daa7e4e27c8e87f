"""Messages about installing."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from action_heads._util import extras
from action_heads._util.extras import made_by_uv, pip, remedy

ROOT = Path(__file__).parents[2]
PACKAGES = ("action_heads", "lab/action_heads_lab", "lerobot_policy_dae/lerobot_policy_dae")
WARNING = "Do not `pip install mimicgen`"  # names a command that nobody should run


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        (None, "pip"),  # the Python of the system, or of conda
        ("home = /usr/bin\nversion = 3.12.1\nprompt = uv = 1\n", "pip"),
        ("home = /usr/bin\nuv = 0.9.1\nversion_info = 3.12.1\n", "uv pip"),
    ],
)
def test_an_environment_of_uv_has_no_pip(settings, command, monkeypatch, tmp_path):
    if settings is not None:
        (tmp_path / "pyvenv.cfg").write_text(settings)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(extras, "made_by_uv", made_by_uv)
    assert pip() == command
    assert remedy("sim").startswith(f"Install it with `{command} install ")


def texts() -> list[tuple[str, str]]:
    """Return (file, text) of every string in the packages, without docstrings."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
        found += [(path.name, node.value) for node in strings if isinstance(node.value, str)]
    return found


def test_no_message_names_a_pip_that_the_environment_may_lack():
    everything = texts()
    assert len(everything) > 5000
    bare = [(file, text) for file, text in everything if re.search(r"\bpip (un)?install\b", text.replace(WARNING, ""))]
    assert not bare, "write {pip()} instead"
