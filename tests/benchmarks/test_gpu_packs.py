"""GPU packs run at toy size, and every command of their full size is one that its own settings accept."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from action_heads.cli.command_line import parse
from action_heads.cli.commands import known

ROOT = Path(__file__).parents[2]
ALONE = "pack_3_fused"  # starts no command; test_pack_3_fused.py runs it
MODES = ("decoupled", "normal", "random-frozen")
PACKS = sorted({path.stem for path in (ROOT / "benchmarks" / "gpu").glob("pack_*.py")} - {ALONE})


@pytest.fixture
def packs(monkeypatch, tmp_path):
    for folder in ("benchmarks", "benchmarks/gpu"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    module = import_module("packs")
    monkeypatch.setattr(module, "EARLIER", tmp_path / "none")
    monkeypatch.setenv("PACK_WORK", str(tmp_path / "work"))
    return module


def start(packs, name: str, monkeypatch, out: Path, *flags: str):
    monkeypatch.setattr(sys, "argv", [f"benchmarks/gpu/{name}.py", "--out", str(out), *flags])
    return import_module(name)


def settings_of(command: list[str]):
    """Return the settings that a command line of `action-heads` is read as."""
    assert command[1:3] == ["-m", "action_heads.cli"]
    module, _, kind = known()[command[3]].settings.partition(":")
    settings = parse(getattr(import_module(module), kind), command[4:], prog="a pack")
    if command[3] == "adapt":
        settings.check_effective()  # as the command does
    return settings


def reproduced(command: list[str]):
    """Return the settings of a `reproduce.py`, and write the result of its one run."""
    from action_heads_lab.reproduce.grid import Reproduce, runs

    script = Path(command[1])
    assert script.exists()
    settings = parse(Reproduce, command[2:], prog="a pack")
    (run,) = runs(settings, script.parent.name)[settings.part[0] :: settings.part[1]]
    result = {"run": asdict(run), "seconds": {"training": 10.0}, "head": {}, "episodes": [{"success": True}]}
    settings.out.mkdir(parents=True, exist_ok=True)
    name = f"{run.task}-{run.backbone}-{run.mode}-s{run.seed}-{run.steps}.json"
    (settings.out / name).write_text(json.dumps(result))
    return settings


class Machine:
    """Stands for the machine: writes what a command would write, and keeps the commands."""

    def __init__(self, packs, monkeypatch):
        self.settings = []
        monkeypatch.setattr(packs.Pack, "run", lambda pack, commands, seconds=None: self.run(pack, commands))

    def run(self, pack, commands):
        for name, command in commands.items():
            if command[2] == "action_heads.cli":
                self.settings.append(settings_of(command))
                self.write(command[3], self.settings[-1])
            elif command[1].endswith("reproduce.py"):
                self.settings.append(reproduced(command))
            elif command[1].endswith("libero_suite.py"):
                self.of_suite(command)
            elif command[1].endswith("stage2.py"):
                self.stage2(pack, command)
            elif "pytest" in command:
                pack.log_of(name).write_text("FAILED tests/test_gpu.py::test_a - x\n1 failed, 136 passed")
            else:
                made = pack.out / f"{name}_{import_module('packs').device()}.json"
                made.write_text(json.dumps({"results": {"rows": [name]}}))
        return dict.fromkeys(commands, 0)

    def of_suite(self, command):
        chosen = import_module("libero_suite").options(command[2:])
        self.settings.append(chosen)
        chosen.out.write_text(json.dumps({task: [True, False] for task in chosen.tasks}))

    def stage2(self, pack, command):
        assert pack.environment["STAGE2_OUT"] == str(pack.work / "stage2")
        chosen = import_module("stage2").options(command[2:])
        studies = import_module("stage2_studies")
        self.settings.append(chosen)
        if chosen.study == "heads":
            (name,) = chosen.names
            folder = import_module("pack_7_mechanisms").folder_of(pack, name, chosen.steps)
            self.write("pretrain", SimpleNamespace(out=folder))
            return
        for number in chosen.cells:
            changes = {"steps": chosen.steps, "episodes": chosen.episodes}
            cell = replace(studies.STUDIES[chosen.study][number], **changes)
            path = pack.work / "stage2" / "cells" / f"{number}-{chosen.steps}.json"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(json.dumps({"cell": asdict(cell), "result": {"seconds": 4, "successes": 40}}))

    def write(self, command, settings):
        if command == "record":
            settings.out.touch()
            return
        settings.out.mkdir(parents=True, exist_ok=True)
        if command == "pretrain":
            alike = {name: 1 for name in ("command", "steps", "chunks", "minutes", "machine", "held_out_loss")}
            content = {"training": alike | {"chunks_per_second": {"training": 90_000}}}
            (settings.out / "config.json").write_text(json.dumps(content))
            (settings.out / "golden.safetensors").touch()
        if command == "evaluate-head":
            (settings.out / "evaluation.json").write_text("{}")
        if command == "adapt":
            rollouts = {"successes": 48, "episodes": 50, "interval": [0.87, 0.99]} if settings.rollout.task else None
            content = {"seconds": 7.0, "rollouts": rollouts, "parameters": {}}
            (settings.out / "results.json").write_text(json.dumps(content))


@pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the sim extra")
@pytest.mark.parametrize("toy", [(), ("--toy",)], ids=["full", "toy"])
@pytest.mark.parametrize("name", PACKS)
def test_every_command_is_one_that_its_settings_accept(name, toy, packs, monkeypatch, tmp_path, capsys):
    machine = Machine(packs, monkeypatch)
    start(packs, name, monkeypatch, tmp_path / "out", *toy).main()
    results = json.loads((tmp_path / "out" / f"{name}.json").read_text())["results"]
    assert results
    said = capsys.readouterr().out
    assert said.rstrip().splitlines()[-1].startswith(list(results)[-1]), "results come last"
    done = len(machine.settings)
    start(packs, name, monkeypatch, tmp_path / "out", *toy).main()
    assert len(machine.settings) == done, "a second pack has nothing left to do"
    if name == "pack_2_images":
        assert {settings.mode for settings in machine.settings if hasattr(settings, "mode")} == {*MODES}
    if name == "pack_5_unet" and not toy:
        steps = [results[f"Stack {mode} seed 0"]["steps"] for mode in MODES]
        assert min(steps) == max(steps) > 5000, "this machine is fast"
    if name == "pack_6_libero" and not toy:
        trained = [one for one in machine.settings if getattr(one, "mode", None)]
        assert {(one.mode, one.vision.encoder) for one in trained} == {(mode, "resnet50") for mode in MODES}
        assert results["libero_goal normal seed 0"]["episodes"] == 20
    if name == "pack_7_mechanisms" and not toy:
        steps = {row["cell"]["steps"] for key, row in results.items() if key != "speed"}
        assert steps == {results["speed"]["steps"]}, "all mechanisms train as long"
        assert len(results) == 1 + 126, "the cells of the paper's figure, on a machine that is fast"
    if name == "pack_4_stage1" and not toy:
        made = [one for one in machine.settings if getattr(one, "name", None) and one.optimiser.steps > 200]
        assert [one.optimiser.steps * one.optimiser.batch_size >= 20_000_000 for one in made] == [True] * 4


@pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the sim extra")
@pytest.mark.parametrize("name", ["pack_2_images", "pack_5_unet", "pack_6_libero"])
def test_modes_are_compared_only_if_one_pack_trained_them(name, packs, monkeypatch, tmp_path):
    """A mode that failed is not trained alone, with another number of training steps."""
    machine, file = Machine(packs, monkeypatch), tmp_path / "out" / f"{name}.json"
    start(packs, name, monkeypatch, tmp_path / "out").main()
    record = json.loads(file.read_text())
    compared = [key for key in record["results"] if key.endswith(" seed 0")]
    first, *others = [key for key in compared if key.split()[0] == compared[0].split()[0]]
    assert [key.split()[1] for key in (first, *others)] == list(MODES)
    del record["results"][first]
    for key in others:
        record["results"][key]["steps"] = 7
    file.write_text(json.dumps(record))
    machine.settings.clear()
    start(packs, name, monkeypatch, tmp_path / "out").main()
    found = json.loads(file.read_text())["results"]
    assert len({found[key]["steps"] for key in (first, *others)} - {7}) == 1
    start(packs, name, monkeypatch, tmp_path / "out", "--seed", "1").main()
    assert f"{first[:-1]}1" in json.loads(file.read_text())["results"], "another seed is another run"


@pytest.mark.slow
def test_a_command_that_takes_too_long_is_ended_with_its_children(packs, tmp_path, capsys):
    pack = packs.Pack("a", minutes=1, out=tmp_path, toy=True)
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    began = time.monotonic()
    commands = {"slow": [sys.executable, "-c", code], "bad": [sys.executable, "-c", "raise SystemExit('a reason')"]}
    assert pack.run(commands, 1.5) == {"slow": None, "bad": 1}
    assert time.monotonic() - began < 50, "the children would have slept for 60 seconds"
    assert "slow took too long" in (said := capsys.readouterr().out)
    assert "a reason" in said


def test_a_result_is_written_at_once_kept_and_left_if_time_is_short(packs, tmp_path, monkeypatch, capsys):
    pack = packs.Pack("a", minutes=1, out=tmp_path)
    assert pack.once("one", 5, lambda: {"rate": 3}) == {"rate": 3}
    assert pack.once("failed", 5, lambda: None) is None
    assert pack.once("long", 100, lambda: pytest.fail("there is no time")) is None
    (tmp_path / "earlier").mkdir()
    (tmp_path / "a.json").rename(tmp_path / "earlier" / "a.json")
    monkeypatch.setattr(packs, "EARLIER", tmp_path / "earlier")
    again = packs.Pack("a", minutes=1, out=tmp_path)
    assert again.once("one", 5, lambda: pytest.fail("it was measured by an earlier pack")) == {"rate": 3}
    assert set(again.results) == {"one"}
    assert "left for the next pack" in capsys.readouterr().out


def test_a_pack_ends_before_its_command_does(packs, tmp_path):
    """A command on the lent machine ends after ten minutes, of which the first seconds go to the imports."""
    assert packs.Pack("a", out=tmp_path).left <= 60 * packs.MINUTES
    assert 60 * packs.MINUTES + packs.GRACE <= 570
    queue = (ROOT / "benchmarks" / "gpu" / "QUEUE.md").read_text(encoding="utf-8")
    assert f"at most {packs.MINUTES} of these minutes" in queue


def test_a_measurement_that_hangs_is_ended_after_the_report(tmp_path):
    code = """
import time
import packs
packs.GRACE = 0.3
pack = packs.Pack("a", minutes=0)
pack.results["one"] = {"ms": 3}
pack.watch(lambda: pack.report(["a last line"]))
time.sleep(60)
"""
    folder = str(ROOT / "benchmarks" / "gpu")
    environment = {"PYTHONPATH": folder, "OUT": str(tmp_path), "PACK_WORK": str(tmp_path / "work")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-2:] == ['one: {"ms": 3}', "a last line"]


def test_all_output_is_in_one_file(packs, tmp_path):
    """Eight files at most come back from the lent machine."""
    pack = packs.Pack("a", minutes=1, out=tmp_path)
    commands = {name: [sys.executable, "-c", f"print('from {name}')"] for name in ("one", "two")}
    assert pack.run(commands, 50) == {"one": 0, "two": 0}
    assert [path.name for path in tmp_path.glob("*.log")] == ["a.log"]
    assert {"from one", "from two"} <= {*(tmp_path / "a.log").read_text(encoding="utf-8").splitlines()}


def test_every_file_with_a_test_on_the_gpu_is_run_by_a_pack(packs):
    marked = re.compile(r"^(pytestmark = |@)pytest\.mark\.gpu", re.MULTILINE)
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if marked.search(path.read_text(encoding="utf-8"))
    }
    assert files
    assert files == {*import_module("pack_1_tables").TESTS, *import_module(ALONE).TESTS}


def test_pack_1_times_the_fused_kernels_once_and_late(packs, monkeypatch, tmp_path):
    """Their compilation must not cost the rest of the table, to which their rows are added."""
    pytest.importorskip("diffusers")
    pytest.importorskip("action_heads_lab")
    pack_1, latency = start(packs, "pack_1_tables", monkeypatch, tmp_path), import_module("latency")
    chosen = {}
    for name, flags in {"first": pack_1.latency(False), "later": pack_1.fused()}.items():
        monkeypatch.setattr(sys, "argv", ["latency.py", *flags])
        options = latency.settings()
        chosen[name] = latency.chosen(latency.systems("cuda"), options), (options.batch, options.steps), options.add
    assert {*chosen["later"][0]} == {"ours, AdaLN-Zero, fused", "ours, FiLM, fused"}
    assert "ours, AdaLN-Zero, graph" in chosen["first"][0]
    assert not {*chosen["first"][0]} & {*chosen["later"][0]}
    assert chosen["first"][1] == chosen["later"][1], "the rows stand in one table"
    assert [chosen[name][2] for name in ("first", "later")] == [False, True]
    asked = []
    monkeypatch.setattr(pack_1, "device", lambda: "cuda")
    monkeypatch.setattr(pack_1, "tests_marked_gpu", lambda *given: {"passed": 1})
    monkeypatch.setattr(pack_1, "table", lambda pack, name, flags: asked.append((name, flags)) or [1])
    monkeypatch.setattr(sys, "argv", ["pack_1_tables.py", "--out", str(tmp_path)])
    pack_1.main()
    assert [name for name, _ in asked[:3]] == ["latency", "training_speed", "latency"]
    assert asked[2][1] == pack_1.fused()


@pytest.mark.parametrize("same", [True, False])
def test_rows_are_added_to_the_table_of_an_earlier_pack_on_the_same_machine(same, packs, monkeypatch, tmp_path):
    """The folder of the results is empty at the start of each command on the lent machine."""
    pack_1, earlier = start(packs, "pack_1_tables", monkeypatch, tmp_path), tmp_path / "earlier"
    name = f"latency_{packs.device()}.json"
    earlier.mkdir()
    table = json.dumps({"machine": packs.machine() | ({} if same else {"gpu": "another"})})
    (earlier / name).write_text(table, encoding="utf-8")
    monkeypatch.setattr(packs, "EARLIER", earlier)
    pack = packs.Pack("pack_1_tables", out=tmp_path / "out")
    pack_1.continue_tables(pack)
    assert (pack.out / name).exists() == same
    (pack.out / name).write_text("[]", encoding="utf-8")
    pack_1.continue_tables(pack)
    assert (pack.out / name).read_text(encoding="utf-8") == "[]", "a table of this pack is kept"


def test_steps_fit_the_time(packs):
    assert packs.steps_in(100, 14.2, most=20_000) == 1420
    assert packs.steps_in(-5, 14.2, most=20_000) == 1
    assert packs.steps_in(1e6, 14.2, most=20_000) == 20_000


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_commands_of_the_lab_are_found_without_an_installation(packs, tmp_path, monkeypatch):
    from importlib.metadata import MetadataPathFinder

    folder = packs.registered(tmp_path)
    (found,) = MetadataPathFinder.find_distributions(
        __import__("importlib.metadata", fromlist=["x"]).DistributionFinder.Context(path=[str(folder)])
    )
    groups = {point.group: point.value for point in found.entry_points}
    assert groups["action_heads.evaluators"] == "action_heads_lab.adapted"
    assert "record" in found.entry_points.names


@pytest.mark.slow
@pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the sim extra")
@pytest.mark.parametrize("name", PACKS)
def test_a_pack_runs_at_toy_size(name, packs, monkeypatch, tmp_path):
    start(packs, name, monkeypatch, tmp_path / "out", "--toy").main()
    results = json.loads((tmp_path / "out" / f"{name}.json").read_text())["results"]
    least = {"pack_1_tables": 3, "pack_2_images": 4, "pack_4_stage1": 2, "pack_5_unet": 4}
    assert len(results) >= {**least, "pack_6_libero": 3, "pack_7_mechanisms": 7}[name]
