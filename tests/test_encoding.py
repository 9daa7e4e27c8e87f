"""A test that every text file is read and written as UTF-8, whatever the encoding of the system, as on Windows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("action_heads", "lab", "lerobot_policy_dae", "benchmarks", "examples")


def without_encoding(source: str) -> list[int]:
    """Return the lines of a source file that open a text file in the system's encoding."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if _opens_text(call) and "encoding" not in {k.arg for k in call.keywords}]


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of_a_module = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in MODULES
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return isinstance(call.func, ast.Attribute) and not of_a_module
    if name in ("open", "fdopen", "TextIOWrapper", "NamedTemporaryFile") and not of_a_module:
        position = 0 if isinstance(call.func, ast.Attribute) and name == "open" else 1
        given = call.args[position] if len(call.args) > position else None
        mode = next((k.value for k in call.keywords if k.arg == "mode"), given)
        return "b" not in str(getattr(mode, "value", "r"))
    return False


MODULES = ("files", "archive", "Image", "webbrowser", "wave", "zipfile", "tarfile", "imageio", "av", "os")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_is_utf_8(folder):
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / folder).rglob("*.py")
        for line in without_encoding(path.read_text(encoding="utf-8"))
    }
    assert not found, 'add encoding="utf-8"'


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("path.read_text()", True),
        ('path.read_text(encoding="utf-8")', False),
        ("path.write_text(text)", True),
        ("files.write_text(path, text)", False),
        ("write_text(path, text)", False),
        ("open(path)", True),
        ('open(path, "w")', True),
        ('open(path, "rb")', False),
        ('open(path, mode="xb")', False),
        ('path.open("w")', True),
        ('path.open("wb")', False),
        ("path.open()", True),
    ],
)
def test_what_is_found(line, bad):
    assert bool(without_encoding(line)) == bad
