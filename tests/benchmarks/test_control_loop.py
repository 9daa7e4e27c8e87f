"""The benchmark of control loops counts deadlines right, goes on where it was stopped, and fills its page."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("control_loop", "control_loop_report", "ticks", "camera", "busy", "common", "latency_report")


@pytest.fixture
def control_loop(monkeypatch, tmp_path):
    """Return the benchmark's module, which writes its results and a copy of its page into `tmp_path`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("BENCHMARK_RESULTS", str(tmp_path))
    for name in OURS:
        sys.modules.pop(name, None)
    yield import_module("control_loop")
    for name in OURS:
        sys.modules.pop(name, None)


class Clock:
    """A clock on which each call of `act` takes so many seconds."""

    def __init__(self, takes: list[float], wakes_late: float = 0.0):
        self.now, self.takes, self.wakes_late = 0.0, takes, wakes_late

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + (self.wakes_late if seconds else 0.0)

    def act(self) -> bool:
        took = self.takes.pop(0)
        self.now += took
        return took > 0.0625


def run(control_loop, ticks: int, *args) -> tuple[list, dict]:
    """Run ticks of a quarter of a second, and return them with their summary."""
    clock = Clock(*args)
    done = control_loop.run_ticks(clock.act, 4, ticks, clock, clock.sleep)
    return done, control_loop.summary(done, 4, ticks)


def test_every_deadline_is_met(control_loop):
    done, row = run(control_loop, 4, [0.125, 0.0625, 0.0625, 0.125])
    assert [tuple(tick) for tick in done] == [
        (0, 0, 0.5, True),
        (1, 1, 1.25, False),
        (2, 2, 2.25, False),
        (3, 3, 3.5, True),
    ]
    counts = {"ticks": 4, "missed": 0, "left_out": 0, "chunks": 2}
    assert {name: row[name] for name in counts} == counts
    assert row["chunk_ms"] == {"p50": 125, "p99": 125, "p99_9": 125, "max": 125}
    assert row["other_ms"]["max"] == 62.5
    assert row["jitter_ms"]["max"] == 0


def test_a_late_chunk_misses_its_deadline_and_those_of_the_ticks_that_it_passes(control_loop):
    # The chunk of tick 0 is there in tick 2, which begins half a period late and still meets its deadline.
    done, row = run(control_loop, 5, [0.625, 0.0625, 0.0625, 0.0625])
    assert [tick.number for tick in done] == [0, 2, 3, 4]
    assert (row["missed"], row["left_out"]) == (2, 1)
    assert row["chunk_ms"]["max"] == 625
    assert row["jitter_ms"]["max"] == 125


def test_an_action_at_the_beginning_of_the_next_tick_is_late(control_loop):
    done, row = run(control_loop, 2, [0.25, 0.0625])
    assert [tick.number for tick in done] == [0, 1]
    assert row["missed"] == 1


def test_ticks_that_pass_after_the_last_action_are_missed_too(control_loop):
    done, row = run(control_loop, 6, [0.0625, 2.5])
    assert len(done) == 2
    assert (row["missed"], row["left_out"]) == (5, 4)


def test_a_late_waking_is_jitter_and_counts_for_the_deadline(control_loop):
    done, row = run(control_loop, 3, [0.125, 0.125, 0.125], 0.1875)
    assert [tick.began for tick in done] == [0.75, 1.25, 2.75]  # tick 1 has no time to sleep, so it does not wake late
    assert row["jitter_ms"]["p50"] == 187.5
    assert row["chunk_ms"]["max"] == 312.5
    assert row["missed"] == 2


def start(control_loop, monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(
        sys, "argv", ["benchmarks/control_loop.py", "--head", "dae/mlp-0.7m-fk", "--steps", "1", *flags]
    )
    control_loop.main()


def stub(control_loop, monkeypatch, calls: list) -> None:
    """Make each cell miss the deadlines of every second tick, without running it."""

    def measured(cell, seconds, adapter):
        calls.append(cell)
        ticks, every = round(seconds * cell.rate), control_loop.Tick
        done = [every(n, n, n + (1.5 if n % 2 else 0.5), n % cell.execute == 0) for n in range(ticks)]
        row = control_loop.summary(done, cell.rate, ticks)
        return {**control_loop.asdict(cell), "seconds": seconds, **row, "camera_fps": 30.0}

    monkeypatch.setattr(control_loop, "measured", measured)


def test_a_cell_is_measured_once_unless_for_longer(control_loop, monkeypatch):
    calls = []
    stub(control_loop, monkeypatch, calls)
    one = ("--scheduling", "ordinary", "--cases", "eager")
    start(control_loop, monkeypatch, *one, "--seconds", "2", "--rates", "20")
    start(control_loop, monkeypatch, *one, "--seconds", "2", "--rates", "20", "50")
    assert [cell.rate for cell in calls] == [20, 50]
    start(control_loop, monkeypatch, *one, "--seconds", "1", "--rates", "20")
    assert len(calls) == 2
    start(control_loop, monkeypatch, *one, "--seconds", "3", "--rates", "20")
    rows = control_loop.read_json(control_loop.RESULTS / "control_loop.json")["results"]
    assert [(row["rate"], row["ticks"]) for row in rows] == [(20, 60), (50, 100)]


def test_a_table_of_another_processor_is_not_replaced(control_loop, monkeypatch):
    """The documented command for one cell had replaced the whole table on another machine."""
    calls = []
    stub(control_loop, monkeypatch, calls)
    one = ("--scheduling", "ordinary", "--cases", "eager", "--seconds", "1", "--rates", "20")
    start(control_loop, monkeypatch, *one)
    files = {path: path.read_bytes() for path in control_loop.RESULTS.iterdir()}
    assert sorted(path.name for path in files) == ["control-loop.md", "control_loop.json"]
    common, here = sys.modules["common"], sys.modules["common"].machine()
    other = here | {"instructions": ["of another kind"]}
    monkeypatch.setattr(common, "machine", lambda: other)
    with pytest.raises(SystemExit, match=r"control_loop\.json was measured on another machine .*set BENCHMARK_RESULTS"):
        start(control_loop, monkeypatch, *one)
    assert len(calls) == 1
    assert {path: path.read_bytes() for path in control_loop.RESULTS.iterdir()} == files
    (control_loop.RESULTS / "control_loop.json").unlink()
    start(control_loop, monkeypatch, *one)
    page = (control_loop.RESULTS / "control-loop.md").read_text(encoding="utf-8")
    assert f"{here['processor']} (of another kind), Python" in page


def test_the_page_has_the_answer_and_a_table_for_each_way_to_act(control_loop, monkeypatch, capsys):
    stub(control_loop, monkeypatch, [])
    monkeypatch.setattr(
        control_loop, "why_not", lambda scheduling, cores: "no permission" if "real" in scheduling else ""
    )
    start(control_loop, monkeypatch, "--seconds", "2", "--rates", "20", "50")
    start(control_loop, monkeypatch, "--seconds", "2", "--rates", "20", "--execute", "1", "--cases", "native")
    assert "real-time is left out: no permission" in capsys.readouterr().out
    page = (control_loop.RESULTS / "control-loop.md").read_text()
    assert "at 20 and 50 Hz:\n\n- With ordinary scheduling: eager 50 and 50 %; `native` 50 and 50 %; " in page
    assert "%; `native` in a second thread 50 and 50 %; `serve` 50 and 50 %.\n" in page
    assert "\n- With a core of its own: eager 50 and 50 %;" in page
    assert "| 50 | a core of its own | `serve` | 100 | 50 | 50 | 10 | 10 | 10 | 10 | 30 | 0 | 0 | 30.0 |" in page
    assert "every tick, on one thread:" in page
    assert page.count("| 20 | ordinary | `native` | 40 | 20 |") == 2


def test_the_camera_writes_frames_that_another_process_reads(control_loop, tmp_path):
    command = (sys.executable, str(ROOT / "benchmarks" / "camera.py"), str(tmp_path / "frames"))
    with control_loop.beside(*command):
        frames = control_loop.Frames(tmp_path / "frames")
        image = frames.newest()
    assert frames.count >= 1
    assert image.shape == (224, 224, 3)
    assert image.std() > 10


@pytest.mark.slow
def test_the_command_at_toy_size(control_loop, monkeypatch):
    flags = (
        "--seconds",
        "0.5",
        "--rates",
        "20",
        "--cases",
        "eager",
        "server",
        "--scheduling",
        "ordinary",
        "--execute",
        "4",
    )
    start(control_loop, monkeypatch, *flags)
    rows = control_loop.read_json(control_loop.RESULTS / "control_loop.json")["results"]
    assert [row["case"] for row in rows] == ["eager", "server"]
    for row in rows:
        assert row["ticks"] == 10
        assert 0 <= row["left_out"] <= row["missed"] <= 10
        assert row["chunks"] >= 1
        assert 0 < row["chunk_ms"]["p50"] <= row["chunk_ms"]["max"]
    assert "Not measured yet" not in (control_loop.RESULTS / "control-loop.md").read_text()
