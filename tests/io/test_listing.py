"""The table of `action-heads heads`: every head, ranked by what is wanted, from the heads' own files."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from action_heads import ActionHead
from action_heads.cli.commands import HeadsConfig, heads
from action_heads.io import hub, listing

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "choose-head.md"


def test_the_page_shows_the_table_of_the_command(capsys):
    heads(HeadsConfig())
    shown = re.search(r"<!-- heads -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert shown[1] == capsys.readouterr().out.strip(), "run `uv run benchmarks/head_latency.py --page`"


def test_a_terminal_gets_the_table_in_aligned_columns(capsys, monkeypatch):
    heads(HeadsConfig())
    cells = [line.strip("| ").replace("`", "").split(" | ") for line in capsys.readouterr().out.splitlines()]
    del cells[1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    heads(HeadsConfig())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(cells)
    assert lines[0].endswith("motion of Stage 1")
    columns = [[(found.start(), found[0]) for found in re.finditer(r"\S+( \S+)*", line)] for line in lines]
    for found, row in zip(columns, cells, strict=True):
        assert sorted(text for _, text in found) == sorted(row)
        assert [start for start, _ in found] == [start for start, _ in columns[0]]


@pytest.mark.parametrize("want", listing.WANTS)
def test_a_want_ranks_the_heads_that_have_it(want, capsys):
    found = listing.entries(want)
    wanted = listing.WANTS[want]
    assert found
    worth = [wanted.worth(entry) for entry in found]
    for place, better in enumerate(worth):
        assert min(worth[place:]) >= better - wanted.alike(better), "a head that is clearly better comes later"
    left = {entry.name for entry in listing.entries()} - {entry.name for entry in found}
    assert not any(wanted.has(entry) for entry in listing.entries() if entry.name in left)
    heads(HeadsConfig(want))
    said = capsys.readouterr().out
    assert wanted.evidence in said
    assert [line.split("`")[1] for line in said.splitlines()[2:] if line.startswith("|")] == [e.name for e in found]
    assert want in PAGE.read_text(encoding="utf-8")


def test_of_heads_that_chance_tells_apart_the_recommended_one_comes_first():
    """The head with 49 of 50 came before that with 48, and of equal networks the one whose time was 1 % shorter."""
    assert listing.entries("absolute")[0].name == "dae/mixer-5m-fk"
    assert listing.entries("real-time")[0].name == "dae/mixer-5m-fk"
    smallest = [head.name for head in listing.entries("smallest")]
    assert smallest[:2] == ["dae/mlp-0.7m-fk", "dae/mixer-5m-fk"], "6 kB of 13.4 MB, which print as equal, tell nothing"
    entry = listing.entries()[0]
    heads = [
        dataclasses.replace(entry, name=str(ms), ms=ms, motion={"synthetic:droid": ms / 100})
        for ms in (16.0, 10.4, 10.0, 10.6)
    ]
    assert [head.name for head in listing.WANTS["fastest"].ranked(heads)] == ["10.0", "10.4", "10.6", "16.0"]
    heads = [dataclasses.replace(head, motion={"synthetic:droid": 1 - head.ms / 100}) for head in heads]
    assert [head.name for head in listing.WANTS["fastest"].ranked(heads)] == ["10.4", "10.0", "10.6", "16.0"]


@pytest.mark.parametrize("entry", listing.entries(), ids=lambda entry: entry.name)
def test_an_entry_is_what_the_head_is(entry):
    head = ActionHead.from_pretrained(entry.name)
    assert entry.keeps_mode == head.backbone.mixes_time
    assert entry.actions == head.config.space.mode
    assert entry.counts.total == head.num_parameters
    assert entry.ms is not None
    assert entry.ms > 0
    assert sum(entry.motion.values()) == pytest.approx(1, abs=1e-3)
    assert bool(entry.trial) == (hub.bundled()[entry.name] / "trial.json").exists()


def test_a_head_without_measurements_is_listed(tmp_path, monkeypatch):
    folder = tmp_path / "bare"
    ActionHead.from_pretrained("dae/mlp-0.7m-fk").save_pretrained(folder)
    monkeypatch.setattr(hub, "bundled", lambda: {"dae/bare": folder})
    assert listing.entries()[0].cells()[3] == listing.entries()[0].cells()[7] == "-"
    assert not listing.entries("fastest")
    config = json.loads((folder / "config.json").read_text())
    assert listing.entries("smallest")[0].actions == config["space"]["mode"]


def test_an_unknown_want_names_the_known():
    with pytest.raises(ValueError, match=r"want.*'cheap'; choose one of smallest, fastest"):
        HeadsConfig("cheap")
