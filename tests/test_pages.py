"""The Python blocks of the pages outside the guides run, each page from top to bottom."""

from __future__ import annotations

import pytest
from pages import DOCS, blocks, run

PAGES = [DOCS / "get-started.md", DOCS / "faq.md", *sorted((DOCS / "concepts").glob("*.md"))]


@pytest.mark.parametrize("page", filter(blocks, PAGES), ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page)


def test_all_pages_with_code_were_found():
    assert sum(len(blocks(page)) for page in PAGES) > 10
