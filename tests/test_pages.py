"""The Python blocks of the pages outside the guides run, each page from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page for page in (DOCS / "get-started.md", DOCS / "faq.md")} | {
    page.relative_to(DOCS).as_posix(): page for page in sorted((DOCS / "concepts").glob("*.md"))
}
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if BLOCK.search(page.read_text("utf-8"))])
def test_a_page_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCK.findall(PAGES[name].read_text("utf-8")):
        exec(compile(block, name, "exec"), names)


def test_all_pages_with_code_were_found():
    assert sum(len(BLOCK.findall(page.read_text("utf-8"))) for page in PAGES.values()) > 10
