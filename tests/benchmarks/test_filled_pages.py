"""Pages hold what the results say: a script that measures nothing would fill them as they are."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("action_heads_lab")
pytest.importorskip("matplotlib")

from action_heads_lab.reproduce.beside_paper import beside_paper
from action_heads_lab.reproduce.page import filled
from action_heads_lab.reproduce.report import robosuite
from action_heads_lab.reproduce.results import load_all

ROOT = Path(__file__).parents[2]
REPORTS = [
    ("droid_heads", ["--page"]),
    ("droid_tasks", ["--page"]),
    ("droid_size_report", []),
    ("stage1_spread", ["--page"]),
    ("mlp_gap", ["--page"]),
    ("paper_question", []),
    ("libero_pro", ["--page"]),
]
FAMILIES = {"robosuite": "paper-comparison.md", "mimicgen": "mimicgen.md", "libero": "libero.md"}


def check(page: Path, parts: Mapping[str, str], command: str) -> None:
    """Fail if a page would change."""
    text = page.read_text(encoding="utf-8")
    assert filled(text, parts, page) == text, f"run `{command}`"


@pytest.mark.parametrize(("script", "flags"), REPORTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_page_is_as_its_script_fills_it(script, flags, monkeypatch):
    monkeypatch.delenv("BENCHMARK_RESULTS", raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    for name in {path.stem for path in (ROOT / "benchmarks").glob("*.py")} & sys.modules.keys():
        monkeypatch.delitem(sys.modules, name)  # another test may have imported it with other results
    module, pages = import_module(script), []
    command = " ".join([f"uv run benchmarks/{script}.py", *flags])

    def fill(page: Path, parts: Mapping[str, str]) -> None:
        check(page, parts, command)
        pages.append(page)

    monkeypatch.setattr(module, "fill", fill)
    module.main()
    assert pages


@pytest.mark.parametrize("family", FAMILIES)
def test_a_page_is_as_the_report_fills_it(family):
    found = load_all(ROOT / "results" / family)
    page = ROOT / "docs" / "results" / FAMILIES[family]
    part = robosuite(found) if family == "robosuite" else beside_paper(family, found)
    check(page, {family: part}, f"uv run action-heads report results/ --page {page.relative_to(ROOT)}")


def p_values(text: str) -> set[str]:
    """Return the p-values that a text names."""
    return set(re.findall(r"\bp = ([\d.]+(?:e-\d+)?)", text))


def filled_parts(page: str) -> str:
    """Return the parts of a page that its report fills."""
    return "\n".join(re.findall(r"<!-- [\w-]+ -->\n(.*?)<!-- end -->", page, re.DOTALL))


@pytest.mark.parametrize("name", FAMILIES.values())
def test_an_answer_names_no_p_value_that_its_tables_lack(name):
    page = (ROOT / "docs" / "results" / name).read_text(encoding="utf-8")
    answer = page.split("**Answer.**")[1].split("\n\n")[0]
    assert p_values(answer) <= p_values(filled_parts(page))


def test_the_overview_names_no_p_value_that_its_pages_lack():
    results, found = ROOT / "docs" / "results", set()
    for row in (results / "index.md").read_text(encoding="utf-8").splitlines():
        if named := p_values(row):
            pages = re.findall(r"\]\(([\w-]+\.md)", row)
            assert named <= set().union(*(p_values((results / page).read_text(encoding="utf-8")) for page in pages))
            found |= named
    assert len(found) > 2
