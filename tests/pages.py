"""The Markdown pages of the repository, and the Python blocks and commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(page: Path) -> list[str]:
    """Return the Python blocks of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(page: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Execute the Python blocks of a page in order. Return the names that they define, beside those given."""
    names = {} if names is None else names
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command in the blocks of a page, without variables that are set before it."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        lines = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace("\n", " "), block).splitlines()
        words = (shlex.split(line, comments=True) for line in lines)
        found += [[word for i, word in enumerate(line) if i or not re.match(r"\w+=", word)] for line in words]
    return [line for line in found if line]
