"""The pages of docs/reference that a script writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "_site" / "cli_page.py"


def test_the_page_of_the_command_line_is_that_of_the_settings():
    pytest.importorskip("action_heads_lab")
    script = runpy.run_path(str(SCRIPT))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run docs/_site/cli_page.py"
