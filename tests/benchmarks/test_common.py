"""The results that benchmarks share: a file is read or refused, and the row of a cell is found and replaced."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

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
