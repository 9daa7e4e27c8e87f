"""The forms in which other systems are timed, and the tables that choose the best of them."""

import json
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return import_module(name)

    return load


def row(what: str, ms: float, dtype: str = "fp32", batch: int = 1, steps: int = 10) -> dict:
    return {"what": what, "ms": ms, "dtype": dtype, "batch": batch, "steps": steps, "floor_ms": 1.0}


def test_each_system_is_shown_in_its_best_form(module):
    rows = [
        row("ours, AdaLN-Zero, eager", 20),
        row("ours, AdaLN-Zero, graph", 2, "bf16"),
        row("a rival", 40),
        row("a rival, bf16 weights", 30, "bf16"),
        row("a rival, inductor", 10, "bf16"),
        row("a rival, inductor", 1, steps=1),
        row("a rival, inductor", 1, batch=256),
    ]
    lines = module("latency_report").best_table(rows).splitlines()[2:]
    assert lines == [
        "| ours, AdaLN-Zero | graph | bf16 | 2 | 1 | 1 |",
        "| a rival | inductor | bf16 | 10 | 1 | 5 |",
    ]


def test_names_of_systems_have_commas_of_their_own(module):
    split = module("forms").split
    assert split("the paper's DP-C, 244M, ours planned") == ("the paper's DP-C, 244M, ours planned", "eager")
    assert split("LeRobot's diffusion U-Net, 277M, bf16 weights") == ("LeRobot's diffusion U-Net, 277M", "bf16 weights")


def test_a_floor_uses_the_rate_that_the_operations_may_reach(module, monkeypatch):
    latency, rates = module("latency"), {"fp32": 10, "tf32": 30, "bf16": 40}
    operations = latency.Operations(products=120, convolutions=60)
    monkeypatch.setattr(latency, "tf32", lambda dtype: (False, dtype == "fp32"))
    assert operations.floor(rates, "fp32") == 120 / 10 + 60 / 30
    assert operations.floor(rates, "bf16") == 180 / 40
    assert operations.floor({"fp32": 10}, "fp32") == 180 / 10, "a CPU has no TF32"
    monkeypatch.setattr(latency, "tf32", lambda dtype: (True, True))
    assert operations.floor(rates, "fp32") == 180 / 30


def test_torch_allows_tf32_to_convolutions_alone_unless_it_is_asked(module):
    assert module("latency").tf32("fp32") == (False, True)
    assert module("latency").tf32("bf16") == (False, False)


def test_convolutions_are_counted_apart(module):
    convolution, product = torch.nn.Conv1d(4, 8, 3, padding=1), torch.nn.Linear(16, 16)

    @torch.no_grad()
    def sample(cond, steps):
        for _ in range(steps):
            product(convolution(cond))

    operations = module("latency").operations_of(sample, 3, 10, torch.zeros(1, 4, 16))
    assert (operations.products, operations.convolutions) == (3 * 10 * 2 * 8 * 16 * 16, 3 * 10 * 2 * 4 * 8 * 3 * 16)


def test_new_rows_take_the_place_of_the_same_case(module):
    earlier, new = [row("a", 1), row("b", 2)], [row("b", 3), row("b", 4, "bf16")]
    assert module("latency").added(earlier, new) == [row("a", 1), *new]


def test_weights_and_new_tensors_have_the_dtype_and_nothing_stays_changed(module):
    forms = module("forms")
    linear = torch.nn.Linear(4, 2)
    forms.cast([linear], torch.bfloat16)
    made = forms.under(torch.bfloat16, lambda: (torch.randn(3), linear(torch.zeros(1, 4, dtype=torch.float32))))()
    assert {tensor.dtype for tensor in made} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_every_compiled_or_cast_form_has_a_plain_one_to_count(module):
    latency, forms = module("latency"), module("forms")
    for device in ("cpu", "cuda"):
        known = latency.systems(device)
        for name in known:
            if latency.is_compiled(name):
                assert latency.plain_of(name, known)
        systems = {forms.split(name)[0] for name in known}
        rivals = {system for system in systems if not system.startswith("ours, ")}
        compiled = {forms.split(name)[0] for name in known if forms.split(name)[1] in ("inductor", "graph")}
        assert rivals <= compiled


def test_the_fused_kernels_are_timed_on_cuda_only(module):
    systems = module("latency_systems").systems
    assert [name for name in systems("cuda") if name.endswith(", fused")] == [
        "ours, AdaLN-Zero, fused",
        "ours, FiLM, fused",
    ]
    assert not [name for name in systems("cpu") if name.endswith(", fused")]


def test_fused_falls_out_with_its_reason_where_it_is_not_possible(module, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(sys, "argv", ["latency.py", "--batch", "1", "--steps", "1"])
    latency = module("latency")
    systems, name = sys.modules["latency_systems"], "ours, AdaLN-Zero, fused"
    known = latency.systems("cpu") | {name: partial(systems.ours, "fused", systems.AdaLNZero, "cpu")}
    cases, (left,) = latency.cases_of(name, "fp32", known, {"fp32": 1e9}, latency.settings(), "cpu")
    assert (cases, left["what"]) == ([], name)
    assert "need a CUDA device" in left["why"] or "Triton" in left["why"]


def test_a_case_that_falls_back_is_left_out_and_the_others_are_timed(module, monkeypatch):
    """The fused kernels may be slower than the graph, which then computes the chunk, for one shape only."""
    monkeypatch.setattr(sys, "argv", ["latency.py", "--batch", "1", "3", "--steps", "1"])
    latency = module("latency")
    product = torch.nn.Linear(4, 4)

    @torch.no_grad()
    def eager(cond, steps):
        for _ in range(steps):
            product(cond[:, :4])

    def fused(cond, steps):
        if len(cond) == 1:
            raise latency.FellBack("the plain graph is faster")

    known = {"ours, a, eager": lambda dtype: eager, "ours, a, fused": lambda dtype: fused}
    (case,), (left,) = latency.cases_of("ours, a, fused", "fp32", known, {"fp32": 1e9}, latency.settings(), "cpu")
    assert (case.batch, case.operations.flops) == (3, 3 * 2 * 4 * 4)
    assert (left["batch"], left["steps"], left["why"]) == (1, 1, "the plain graph is faster")


@pytest.mark.parametrize("fell_back", ["", "the fused kernels differ from eager"])
def test_a_chunk_of_another_method_does_not_count_as_fused(module, monkeypatch, fell_back):
    systems = module("latency_systems")

    class Head:
        pass

    head = Head()
    head.fell_back = fell_back
    compiled = SimpleNamespace(method="fused", dtype=torch.float32)
    fast = SimpleNamespace(head=head, compiled=compiled, sample=lambda cond, steps: cond)
    fast.eval = lambda: fast
    fast.compile = lambda method, dtype: fast
    whole = SimpleNamespace(from_pretrained=lambda name, device: SimpleNamespace(attach=lambda adapter: fast))
    monkeypatch.setattr(systems, "ActionHead", whole)
    monkeypatch.setattr(systems, "FusedHead", Head)
    sample = systems.ours("fused", systems.AdaLNZero, "cpu", torch.float32)
    if fell_back:
        with pytest.raises(systems.FellBack, match=fell_back):
            sample(torch.zeros(1, 4), 1)
    else:
        assert sample(torch.zeros(1, 4), 1).shape == (1, 4)


def test_systems_can_be_left_out_by_name(module, monkeypatch):
    latency = module("latency")
    known = dict.fromkeys(["ours, graph", "ours, fused", "a rival"])
    monkeypatch.setattr(sys, "argv", ["latency.py", "--only", "ours", "--without", "fused"])
    assert latency.chosen(known, latency.settings()) == ["ours, graph"]


def test_a_table_with_added_rows_names_all_its_commands(module, tmp_path):
    report = module("latency_report")
    results = {"gflop_per_s": {"fp32": 1.0}, "gb_per_s": 2.0, "note": "", "added_to": ["first"]}
    machine = {"gpu": "a GPU", "torch": "2"}
    record = {"command": "second", "date": "today", "machine": machine, "results": results}
    assert report.conditions(record).startswith("`first` and then `second`, today, a GPU")
    (tmp_path / "some.json").write_text(json.dumps(record), encoding="utf-8")
    assert report.commands_of(tmp_path / "some.json") == ["first", "second"]


AUTHORS = ["the authors' DP-MLP", "the authors' DP-MLP, inductor", "the authors' DP-C", "the authors' DP-C, inductor"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_two_cases_look_the_same_in_the_figure(module, device, monkeypatch, tmp_path):
    """GR00T's expert had the colour of our graph, since colours began anew after ten cases.

    Weights in bf16 are no case in fp32, whose panel alone gave the names.
    """
    pyplot = pytest.importorskip("matplotlib.pyplot")
    report, names = module("latency_report"), [*module("latency_systems").systems(device), *AUTHORS]
    legend = {}

    def keep(self, lines, labels, **_):
        legend.update(zip(labels, lines, strict=True))

    monkeypatch.setattr(pyplot.Figure, "legend", keep)
    cases = [(name, dtype) for name in names for dtype in ("fp32", "bf16")[name.endswith("bf16 weights") :]]
    rows = [{"what": name, "dtype": dtype, "mflop": 1.0, "least_ms": 1.0} for name, dtype in cases]
    report.draw({"gflop_per_s": {"fp32": 1, "bf16": 1}, "rows": rows}, tmp_path / "figure.png")
    assert list(legend) == names
    assert len({(line.get_color(), line.get_marker()) for line in legend.values()}) == len(names)


def test_more_systems_than_colours_are_refused(module):
    with pytest.raises(ValueError, match="there are 21 systems, but a figure has 20 colours"):
        module("latency_report").looks(map(str, range(21)))


@pytest.mark.parametrize(
    ("instructions", "shown"), [({}, "AMD EPYC"), ({"instructions": ["avx2", "avx512f"]}, "AMD EPYC (avx2, avx512f)")]
)
def test_conditions_name_the_instructions_of_a_processor(module, instructions, shown):
    """Two processors of one name differ fourfold by them."""
    machine = {"gpu": None, "processor": "AMD EPYC", "threads": 2, "torch": "2"} | instructions
    results = {"gflop_per_s": {"fp32": 1.0}, "gb_per_s": 2.0, "note": ""}
    record = {"command": "one", "date": "today", "machine": machine, "results": results}
    assert f", 2 threads of an {shown}, torch 2" in module("latency_report").conditions(record)


def timed(what: str, least_ms: float, batch: int = 16, dtype: str = "fp32") -> dict:
    return row(what, least_ms, dtype, batch) | {"least_ms": least_ms, "floor_ms": 10.0}


def test_a_table_names_the_cases_below_their_floor(module):
    """A rate that was measured too low makes all floors too high, and every ratio too good."""
    report = module("latency_report")
    machine = {"gpu": "a GPU", "torch": "2"}
    results = {"gflop_per_s": {"fp32": 1.0}, "gb_per_s": 2.0, "note": ""}
    record = {"command": "one", "date": "today", "machine": machine, "results": results}
    results["rows"] = [timed("a", 10.0), timed("b", 9.5), timed("c", 11.0), timed("d", 5.0, batch=1, dtype="bf16")]
    text = report.measured(record)
    assert "lower bounds: b (fp32, batch 16, 10 steps, 9.5 of 10 ms); d (bf16, batch 1, 10 steps, 5 of 10 ms)." in text
    results["rows"] = [timed("a", 10.0), timed("c", 11.0)]
    assert "floor**" not in report.measured(record)


def test_the_pages_show_the_results(module, monkeypatch):
    monkeypatch.delitem(sys.modules, "common", raising=False)
    report = module("latency_report")
    for device, name in (("cpu", "latency_cpu"), ("cpu", "latency_avx2"), ("cuda", "latency_cuda")):
        page = (report.DOCS / report.PAGES[device]).read_text(encoding="utf-8")
        assert report.measured(report.read_json(report.RESULTS / f"{name}.json")) in page, "run latency_report.py"


@pytest.mark.parametrize(
    ("before", "after", "warns"), [(1.0, 1.0, True), (1e15, 1e15, False), (1.0, 1e15, False)]
)  # operations per second before and after the cases were timed, of which the higher rate counts
def test_the_command_ends_with_the_cases_below_their_floor(module, monkeypatch, capsys, before, after, warns):
    options = ["--batch", "1", "--steps", "1", "--dtype", "fp32", "--rounds", "1", "--longest", "1e9"]
    monkeypatch.setattr(sys, "argv", ["latency.py", *options])
    latency, product = module("latency"), torch.nn.Linear(256, 256)
    monkeypatch.setenv("BENCHMARK_RESULTS", "elsewhere")  # so that no page is written
    monkeypatch.setattr(latency, "write_results", lambda name, results: None)
    monkeypatch.setattr(latency, "memory_rate", lambda device: 1e9)
    rates = iter([before] * len(latency.DTYPES) + [after] * len(latency.DTYPES))
    monkeypatch.setattr(latency, "matrix_rate", lambda dtype, device, **_: next(rates))
    monkeypatch.setattr(latency, "systems", lambda device: {"a": lambda dtype: lambda cond, k: product(cond[:, :256])})
    latency.main()
    assert ("a (fp32, batch 1, 1 step, " in capsys.readouterr().out) is warns
