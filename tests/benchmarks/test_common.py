"""The results that benchmarks share: a file is read or refused, and the row of a cell is found and replaced."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def common(monkeypatch, tmp_path):
    """Return the module, which writes its results into `tmp_path`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.setenv("BENCHMARK_RESULTS", str(tmp_path))
    sys.modules.pop("common", None)
    yield import_module("common")
    sys.modules.pop("common", None)


def test_results_are_read_as_they_were_written(common):
    common.write_results("some", [{"ms": 1}])
    assert common.read_results("some") == [{"ms": 1}]


def test_a_file_that_is_not_there_is_refused_unless_something_is_given_for_it(common):
    assert common.read_results("none", []) == []
    assert common.read_results("none", None) is None
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        common.read_results("none")


def test_the_row_of_a_cell_has_all_its_settings(common):
    rows = [{"task": "Lift", "seed": 0, "ms": 1}, {"task": "Lift", "seed": 1, "ms": 2}]
    assert common.row_of(rows, {"task": "Lift", "seed": 1}) is rows[1]
    assert common.row_of(rows, {"task": "Stack", "seed": 1}) is None


def test_a_new_row_comes_last_and_takes_the_place_of_that_of_its_cell(common):
    first, second = {"seed": 0, "ms": 1}, {"seed": 1, "ms": 2}
    assert common.with_row([first, second], {"seed": 0}, {"seed": 0, "ms": 3}) == [second, {"seed": 0, "ms": 3}]
    assert common.with_row([first], {"seed": 1}, second) == [first, second]


def test_an_unknown_name_ends_the_program_with_the_known_ones(common):
    common.check_known(["Lift"], ("Lift", "Stack"))
    with pytest.raises(SystemExit, match=r"unknown: lift\. Choose from Lift, Stack"):
        common.check_known(["lift"], ("Lift", "Stack"))


UNKNOWN = {  # the script, what it would begin with, and arguments with an unknown name
    "delta": ("delta", "demonstrations", {"heads": ("dae/mixer-5m-fk-delta", "runs/mine")}),
    "systems of language": ("language", "demonstrations", {"systems": ("decoupled", "other")}),
    "words of language": ("language", "demonstrations", {"words": ("true",)}),
    "reshape": ("reshape", "demonstrations", {"named": ("as pretrained", "other")}),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_benchmark_refuses_an_unknown_name_before_it_measures(what, common, monkeypatch):
    """The delta benchmark ended with a KeyError after it had trained and rolled out a head that is not bundled."""
    for name in ("transformers", "matplotlib", "robosuite"):
        pytest.importorskip(name)
    script, begins_with, given = UNKNOWN[what]
    module = import_module(script)
    monkeypatch.setattr(module, begins_with, lambda *_: pytest.fail("it began"))
    with pytest.raises(SystemExit, match=r"unknown: .*\. Choose from"):
        module.main(**given)


@pytest.mark.parametrize(
    "other", [{"instructions": ["avx2"]}, {"torch": "1.0"}, {"gpu": "another"}, {"processor": "A"}]
)
def test_times_of_another_machine_are_not_added_to(common, monkeypatch, other):
    here = common.machine() | {"instructions": ["avx2", "avx512f"]}
    monkeypatch.setattr(common, "machine", lambda: here)
    assert common.times_to_keep("times") is None
    common.write_results("times", {"ms": 1})
    assert common.times_to_keep("times") == {"ms": 1}
    monkeypatch.setattr(common, "machine", lambda: here | other)
    with pytest.raises(SystemExit, match=r"times\.json was measured on another machine .* Remove it to measure all"):
        common.times_to_keep("times")


PAGE = "first <!-- some -->\nbefore\n<!-- end --> last"


def test_results_elsewhere_have_a_page_of_their_own(common, monkeypatch, tmp_path):
    """A measurement into another folder had filled the repository's page with its numbers."""
    pages = tmp_path / "pages"
    monkeypatch.setattr(common, "PAGES", pages)
    pages.mkdir()
    (pages / "some.md").write_text(PAGE, encoding="utf-8")
    assert common.DOCS == common.RESULTS == tmp_path
    for part in ("new", "newer"):
        common.fill(common.DOCS / "some.md", {"some": part})
        assert (tmp_path / "some.md").read_text("utf-8") == PAGE.replace("before", part)
    assert (pages / "some.md").read_text("utf-8") == PAGE


def test_pages_and_figures_of_the_repository_show_its_results(common, monkeypatch):
    monkeypatch.delenv("BENCHMARK_RESULTS")
    sys.modules.pop("common")
    root = Path(__file__).parents[2]
    module = import_module("common")
    for found, expected in ((module.RESULTS, "benchmarks/results"), (module.DOCS, "docs/results")):
        assert found.relative_to(root).as_posix() == expected


def test_every_benchmark_fills_its_page_by_the_common_function():
    """Others do not see BENCHMARK_RESULTS."""
    files = [path for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if path.name != "common.py"]
    own = [path.name for path in files if re.search(r'reproduce\.page import|"docs"', path.read_text("utf-8"))]
    assert len(files) > 40
    assert own == []


NOW, BEFORE = {"--data": "now", "--head": "same"}, {"--data": "before", "--head": "same"}


def test_a_row_of_other_inputs_is_refused_and_one_without_any_is_not(common):
    for inputs in ({}, {"inputs": {}}, {"inputs": NOW}, {"inputs": {"--head": "same"}}):
        common.check_row("some", inputs, {"seed": 0}, NOW)
    with pytest.raises(
        SystemExit, match=r"the row of \{'seed': 0\} in .*some\.json was .* other contents of --data, which"
    ) as e:
        common.check_row("some", {"inputs": BEFORE}, {"seed": 0}, NOW)
    assert "Restore them, or set BENCHMARK_RESULTS" in str(e.value)


def test_a_row_names_the_runs_that_made_it(common, monkeypatch):
    """The file's own command and machine are those of its last run, which had stood for all rows."""
    monkeypatch.setattr(sys, "argv", ["some.py", "--first"])
    first = common.stamped({"ms": 1})
    assert [made["command"] for made in first["made"]] == ["uv run some.py --first"]
    assert first["made"][0]["machine"] == common.machine()
    assert common.stamped({"ms": 2}, first)["made"] == first["made"]
    monkeypatch.setattr(sys, "argv", ["some.py", "--second"])
    commands = [made["command"] for made in common.stamped({"ms": 2}, first)["made"]]
    assert commands == ["uv run some.py --first", "uv run some.py --second"]
    assert common.stamped({"ms": 2})["made"][0]["command"] == "uv run some.py --second"


def test_a_row_of_an_unknown_run_borrows_no_other(common):
    old, new = {"ms": 1}, common.stamped({"ms": 2, "inputs": NOW})
    assert common.stamped({"ms": 3}, old)["made"] == [None, *new["made"]]
    text = common.made_text("some", [old, new, common.stamped({"ms": 3}, old)])
    assert "| 2 | not recorded |" in text
    assert f"`{new['made'][0]['command']}`" in text
    assert "2 of these rows hold no hashes" in text


def test_result_files_name_their_run_as_the_overview_says():
    root = Path(__file__).parents[2]
    files = [path for folder in ("benchmarks/results", "results") for path in (root / folder).rglob("*.json")]
    named = {"command", "date", "machine"}
    partial = [path for path in files if not named.issubset(map(str, json.loads(path.read_text("utf-8"))))]
    known = re.compile(r"demo_|.*_on_droid\.json")
    assert len(files) > 100
    assert [path for path in partial if not known.match(path.name) and path.parent.name != "images_h200"] == []


NOT_STAMPED = {
    "droid_heads": "all rows of a file are of one run",
    "stage2_report": "it copies records, each of which has its machine",
}


def test_every_benchmark_that_adds_to_its_rows_names_the_run_of_each():
    adds = {
        path.stem
        for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py")
        if {"read_results(", "write_results("} <= set(re.findall(r"\b\w+\(", path.read_text("utf-8")))
        and "stamped(" not in path.read_text("utf-8")
    }
    assert adds - {"common"} <= NOT_STAMPED.keys()


@pytest.fixture
def images(common, monkeypatch, tmp_path):
    """Return the benchmark with one cell, whose recording has the contents `NOW`, and whose even starts succeed."""
    for name in ("transformers", "robosuite"):
        pytest.importorskip(name)
    for name in ("images", "on_features"):  # they import `common`, which is a new module in each test
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = import_module("images")
    (tmp_path / "data" / "Lift").mkdir(parents=True)
    monkeypatch.setattr(module, "CELLS", [module.Cell("Lift")])
    monkeypatch.setattr(module, "demonstrations", lambda *_: SimpleNamespace(inputs=NOW))

    def run(cell, data, folder, seeds):
        outcomes = {"outcomes": [seed % 2 == 0 for seed in seeds], "inputs": data.inputs}
        return asdict(cell) | dict.fromkeys(module.ADDED, len(seeds)) | outcomes

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(sys, "argv", ["images.py", "--data", str(tmp_path / "data"), "--episodes", "10"])
    yield module
    for name in ("images", "on_features"):
        sys.modules.pop(name, None)


def begun(images, episodes: int, **more) -> dict:
    return asdict(images.Cell("Lift")) | dict.fromkeys(images.ADDED, episodes) | more


def test_a_row_without_hashes_goes_on_and_has_them_from_then_on(images, common):
    common.write_results("images", [begun(images, 4)])
    images.main()
    (row,) = common.read_results("images")
    assert (row["episodes"], row["inputs"]) == (10, NOW)
    assert [made is None for made in row["made"]] == [True, False]
    assert "outcomes" not in row  # those of its first episodes are unknown


def test_a_continued_row_holds_the_outcome_of_every_start_in_order(images, common):
    common.write_results("images", [begun(images, 3, outcomes=[False, False, True])])
    images.main()
    (row,) = common.read_results("images")
    assert row["outcomes"] == [False, False, True, False, True, False, True, False, True, False]


@pytest.mark.parametrize("episodes", [4, 10])
def test_a_row_of_another_recording_is_neither_continued_nor_finished(episodes, images, common):
    common.write_results("images", rows := [begun(images, episodes, inputs=BEFORE)])
    with pytest.raises(SystemExit, match="other contents of --data"):
        images.main()
    assert common.read_results("images") == rows


def test_finished_rows_are_kept(images, common):
    for more in ({}, {"inputs": NOW}):
        common.write_results("images", rows := [begun(images, 10, **more)])
        images.main()
        assert common.read_results("images") == rows


def test_a_policy_of_another_recording_is_not_loaded(images, monkeypatch, tmp_path):
    on_features = import_module("on_features")
    (tmp_path / "policy.json").touch()
    for record, refused in (({}, False), ({"inputs": NOW}, False), ({"inputs": BEFORE}, True)):
        saved = SimpleNamespace(from_pretrained=lambda place, record=record: SimpleNamespace(training_record=record))
        monkeypatch.setattr(on_features, "ObservedPolicy", saved)
        given = [None] * 7
        if refused:
            with pytest.raises(SystemExit, match=rf"the policy in {tmp_path} .* delete {tmp_path} to train it anew"):
                on_features.trained(*given, tmp_path, NOW)
        else:
            assert on_features.trained(*given, tmp_path, NOW).training_record == record
