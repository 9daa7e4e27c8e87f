"""Write the parts of a page that stand between <!-- name --> and <!-- end -->."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from action_heads.io.files import write_text


def filled(page: str, parts: Mapping[str, str], path: Path) -> str:
    """Return the page with each part in its place.

    Raises:
        ValueError: the page lacks a place. The message names `path`.
    """
    for name, part in parts.items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if not re.search(mark, page, re.DOTALL):
            raise ValueError(f"{path} has no part <!-- {name} --> ... <!-- end --> to write to")
        page = re.sub(mark, lambda m, part=part: f"{m[1]}{part}\n{m[2]}", page, flags=re.DOTALL)
    return page


def fill(path: Path, parts: Mapping[str, str]) -> None:
    """Write the parts into an existing page."""
    write_text(path, filled(path.read_text(encoding="utf-8"), parts, path))
