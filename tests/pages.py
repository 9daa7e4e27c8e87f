"""The Markdown pages of the repository, and the Python blocks in them."""

from __future__ import annotations

import re
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
