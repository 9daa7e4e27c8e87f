"""The forms in which other systems are timed, and the tables that choose the best of them."""

import sys
from importlib import import_module
from pathlib import Path

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
