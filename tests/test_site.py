"""The pages of docs/reference, and the links to what they show."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest
from pages import DOCS

SCRIPT = DOCS / "_site" / "cli_page.py"


def test_the_page_of_the_command_line_is_that_of_the_settings():
    pytest.importorskip("action_heads_lab")
    script = runpy.run_path(str(SCRIPT))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run docs/_site/cli_page.py"


def links_into_the_reference() -> list[tuple[Path, str]]:
    """Return the page of the reference and the object of every link to an object."""
    pattern = re.compile(r"\]\(([\w./-]*reference/\w+\.md)#([\w.]*\.\w+)\)")
    found = [
        (page.parent / target, name)
        for page in DOCS.rglob("*.md")
        for target, name in pattern.findall(page.read_text("utf-8"))
    ]
    assert found
    return found


@pytest.mark.parametrize(("page", "name"), links_into_the_reference(), ids=str)
def test_links_into_the_reference_lead_to_what_it_shows(page, name):
    shown = re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
    (owner,) = (given for given in shown if name == given or name.startswith(f"{given}."))
    module, _, kind = owner.rpartition(".")
    thing, attribute = getattr(import_module(module), kind), name[len(owner) + 1 :]
    if attribute:
        assert callable(getattr(thing, attribute))
        inherits = "inherited_members: true" in (DOCS.parent / "mkdocs.yml").read_text("utf-8")
        assert attribute in vars(thing) or inherits
