"""Native C++ code gives the numbers of eager mode for every shape and number of threads, or falls back to it."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import outcome
from small import generator, tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.adapters import ADAPTERS, AdaLNZero
from action_heads.runtime import native
from action_heads.runtime.native import FEW, LENT, NativeHead, instructions, library, why_not_native

WIDE = {"width": 64, "depth": 2}
BACKBONES = ("mlp", "mixer")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")


def network(head, mechanism: str, batch: int, per_step: bool = False, seed: int = 0):
    """Return arguments of `predict`: noisy chunks, values of their modulation, and the modulation."""
    modulation, g = head.modulation_of(mechanism), generator(seed)
    x = torch.randn(batch, head.config.horizon, head.config.space.dim, generator=g)
    steps = head.config.horizon if per_step else 1
    return x, 0.3 * torch.randn(batch, steps, modulation.values, generator=g), modulation


@pytest.fixture
def threads():
    """Return a function that sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("horizon", [3, 16, 70])
@pytest.mark.parametrize("mechanism", [name for name, kind in ADAPTERS.items() if kind.slots])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_is_eager(backbone, mechanism, horizon):
    """Native equals eager for few rows (split by columns) and many (by chunks), with values per chunk or time step."""
    head = tiny_head(backbone, horizon=horizon, **WIDE)
    fast = NativeHead(head, torch.float32)
    for batch, per_step in ((1, False), (2, True), (41, False), (41, True)):
        given = network(head, mechanism, batch, per_step)
        torch.testing.assert_close(fast.predict(*given), head.predict(*given), rtol=1e-5, atol=1e-5)
    x, values, modulation = network(head, mechanism, 41)
    one = values[:1]  # for all chunks, as of the unconditional head
    torch.testing.assert_close(fast.predict(x, one, modulation), head.predict(x, one, modulation), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_neither_neighbours_nor_threads_change_a_bit(backbone, dtype, threads):
    head = tiny_head(backbone, **WIDE)
    if why := why_not_native(head, dtype):
        pytest.skip(why)
    fast = NativeHead(head, dtype)
    x, values, modulation = network(head, "adaln_zero", 41)
    outs = []
    for count in (1, 2, 3):
        threads(count)
        outs += [fast.predict(x, values, modulation)]
        outs += [torch.cat([fast.predict(x[i : i + 1], values[i : i + 1], modulation) for i in range(len(x))])]
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("chunks", [1, FEW, FEW + 1, 41])
def test_torch_s_threads_do_not_spin_beside_those_of_the_network(chunks, threads, monkeypatch):
    """OpenMP's threads took the cores between the steps of the loop from the fifth chunk on."""
    policy, seen = tiny_head("mlp", **WIDE).freeze().attach(AdaLNZero(cond_dim=8)), []
    fast, predict = policy.compile("native"), NativeHead.predict

    def watched(head, *given):
        seen.append((torch.get_num_threads(), LENT.get()))
        return predict(head, *given)

    def fails(*_):
        raise RuntimeError("in the middle")

    threads(3)
    for method, expected in ((watched, nullcontext()), (fails, pytest.raises(RuntimeError, match="in the middle"))):
        monkeypatch.setattr(NativeHead, "predict", method)
        with expected:
            fast.sample(torch.randn(chunks, 8), steps=3)
        assert (torch.get_num_threads(), LENT.get()) == (3, 0)
    assert set(seen) == {(1, 3)}


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_large_and_small_hidden_units(dtype, near):
    """Native equals eager in the tails of GELU, where its approximations could diverge."""
    head = tiny_head(depth=1, width=64)
    if why := why_not_native(head, dtype):
        pytest.skip(why)
    with torch.no_grad():
        head.backbone.blocks[0].up.bias.copy_(torch.linspace(-30, 30, 256))
    given = network(head, "film", 1)
    torch.testing.assert_close(NativeHead(head, dtype).predict(*given), head.predict(*given), rtol=near, atol=near)


def test_what_is_not_contiguous_or_in_another_precision():
    head = tiny_head(**WIDE)
    fast = NativeHead(head, torch.float32)
    x, values, modulation = network(head, "film", 4, per_step=True)
    expected = head.predict(x, values, modulation)
    turned = x.mT.contiguous().mT, values.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(fast.predict(*turned, modulation), fast.predict(x, values, modulation))
    torch.testing.assert_close(fast.predict(x.double(), values.double(), modulation), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torch_s_defaults_do_not_matter(dtype):
    """Native ignores torch's default dtype and device, which loaders of large models change."""
    head = tiny_head(**WIDE)
    fast, given = NativeHead(head, torch.float32), network(head, "film", 2)
    expected = fast.predict(*given)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            out = fast.predict(*given)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(out, expected)


def test_what_would_be_read_beyond_its_end_is_refused():
    head = tiny_head(**WIDE)
    fast = NativeHead(head, torch.float32)
    x, values, modulation = network(head, "film", 3)
    for wrong in ((x[:, :8], values), (x[..., :9], values), (x, values[:2]), (x, values[..., :-1]), (x, values[0])):
        with pytest.raises(ValueError, match=r"expected \(b, 16, 10\) and \(1 or b, 1 or 16"):
            fast.predict(*wrong, modulation)
    with pytest.raises(ValueError, match="computes on the CPU"):
        fast.predict(x.to("meta"), values, modulation)


def test_a_head_in_bfloat16_can_be_computed_in_float32():
    head = tiny_head(**WIDE).to(torch.bfloat16)
    plain = ActionHead(head.config)
    plain.load_state_dict({name: tensor.float() for name, tensor in head.state_dict().items()})  # the rounded weights
    plain.freeze()
    given = network(plain, "film", 2)
    torch.testing.assert_close(
        NativeHead(head, torch.float32).predict(*given), plain.predict(*given), rtol=1e-5, atol=1e-5
    )


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Use an empty cache, on disk and in memory."""
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path))
    library.cache_clear()
    yield tmp_path
    library.cache_clear()


def test_it_is_compiled_once_a_machine(fresh, monkeypatch):
    library()
    (made,) = fresh.iterdir()  # and nothing half-made beside it
    library.cache_clear()
    monkeypatch.setattr(native, "_run", lambda *command: pytest.fail("compiled again"))
    library()
    assert list(fresh.iterdir()) == [made]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are names of x86")
@pytest.mark.parametrize(
    ("processor", "columns", "name"), [("x86-64-v3", 16, "AVX2"), ("x86-64", 8, "registers of 128 bits")]
)
def test_narrower_registers(fresh, monkeypatch, processor, columns, name):
    """Code for registers of eight floats (AVX2) and of four (any other processor) gives the same numbers."""
    flags = [f"-march={processor}" if flag.startswith("-march") else flag for flag in native.FLAGS]
    monkeypatch.setattr(native, "FLAGS", tuple(flags))
    head = tiny_head("mixer", **WIDE)
    assert (library().columns(), instructions(torch.float32)) == (columns, name)
    assert "no AVX-512 instructions for bfloat16" in why_not_native(head, torch.bfloat16)
    for batch in (1, 41):
        given = network(head, "adaln_zero", batch)
        torch.testing.assert_close(
            NativeHead(head, torch.float32).predict(*given), head.predict(*given), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("without", ["", "-mno-amx-bf16", "-DASK_FOR_TILES=0"])
def test_bfloat16_with_amx_and_without(fresh, monkeypatch, without):
    """bfloat16 is near eager with AMX if it is here, without it, and if the system does not permit it."""
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, *filter(None, [without])))
    if why := why_not_native(tiny_head(**WIDE), torch.bfloat16):
        pytest.skip(why)
    here = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    assert (instructions(torch.bfloat16) == "AMX") == (here and not without)
    assert instructions(torch.float32) != "AMX"
    reason = trained_policy(tiny_head(**WIDE)).compile(dtype=torch.bfloat16).compiled.reason
    assert reason.endswith("with AMX") == (here and not without)
    for backbone, width, horizon, batch in itertools.product(BACKBONES, (32, 96), (8, 17, 64), (1, 3, 41)):
        head = tiny_head(backbone, width=width, depth=2, horizon=horizon)
        given = network(head, "adaln_zero", batch, per_step=batch == 3)
        near, exact = NativeHead(head, torch.bfloat16).predict(*given), head.predict(*given)
        torch.testing.assert_close(near, exact, rtol=0, atol=0.05)
        assert not torch.equal(near, exact)


def test_bfloat16_after_a_fork_and_other_products(threads):
    """A forked process, and torch's own products in bfloat16, which may set AMX up otherwise, change no bit."""
    head = tiny_head(**WIDE)
    if why := why_not_native(head, torch.bfloat16):
        pytest.skip(why)
    threads(2)
    fast, given = NativeHead(head, torch.bfloat16), network(head, "adaln_zero", 2)
    expected, matrix = fast.predict(*given), torch.randn(70, 70).bfloat16()

    def act() -> None:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(fast.predict(*given), expected)

    for _ in range(2):
        assert (matrix @ matrix).isfinite().all()
        assert torch.equal(fast.predict(*given), expected)
    assert outcome(act) == "done"


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", ("-march=native", "-std=c++17")),
        ("linux", "aarch64", ("-mcpu=native", "-std=c++17")),
        ("darwin", "arm64", ("-mcpu=native", "-std=c++20")),
    ],
)
def test_flags(system, machine, expected):
    assert native.flags(system, machine)[3:5] == expected


def test_under_macos_it_is_used_by_name_only(monkeypatch):
    """Nobody has run it under macOS yet, so `auto` takes `packed` there."""
    built = library()
    monkeypatch.setattr(native, "library", lambda: built)
    monkeypatch.setattr(native, "sys", SimpleNamespace(platform="darwin"))
    policy = trained_policy(tiny_head(**WIDE))
    assert policy.compile("native").compiled.method == "native"
    fast = policy.compile()
    assert fast.compiled.method == "packed"
    assert "has not been run under macOS yet" in fast.compiled.reason


def test_threads_wait_as_under_macos(fresh, monkeypatch, threads):
    """Threads that wait as in C++20, since macOS has no futex, compute the same after they slept, and after a fork."""
    # -fno-gnu-unique, since it would share threads with the library of other tests, which wakes them otherwise.
    flags = (*native.flags("darwin", platform.machine()), "-O1", "-U__linux__", "-fno-gnu-unique")
    monkeypatch.setattr(native, "FLAGS", flags)
    try:
        library()
    except OSError as error:
        if "has no member named" in str(error):
            pytest.skip("g++ has atomic waiting from version 11 on")
        raise
    head = tiny_head("mixer", **WIDE)
    fast, given = NativeHead(head, torch.float32), network(head, "adaln_zero", 2)
    expected = fast.predict(*given)

    def act() -> None:
        assert torch.equal(fast.predict(*given), expected)

    threads(3)
    for _ in range(3):
        act()
        time.sleep(0.01)
    assert outcome(act) == "done"


@pytest.mark.parametrize(
    ("before", "after", "best"),
    [
        ((20, 12, 14, 18, 19), (20, 12, 14, 18, 19), (1, 1)),  # a container has two cores and sees sixteen
        ((20, 11, 6, 4, 3), (20, 30, 40, 50, 60), (4, 0)),  # other processes take all cores but one
        ((20, 30, 40, 50, 60), (20, 11, 6, 4, 3), (0, 4)),  # and leave them again
        ((20,), (20,), (0, 0)),
    ],
)
def test_the_number_of_threads_that_takes_least_time_is_found(tmp_path, before, after, best):
    made = tmp_path / "native_choice"
    program, include = Path(__file__).with_name("native_choice.cpp"), native.SOURCE.parent
    command = [
        "g++",
        *native.FLAGS,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        str(include),
        str(program),
        "-o",
        str(made),
    ]
    subprocess.run(command, check=True)
    said = subprocess.run([made, *map(str, before), "/", *map(str, after)], capture_output=True, text=True, check=True)
    chosen = [list(map(int, line.split())) for line in said.stdout.splitlines()]
    assert chosen[0][best[0]] > 0.85 * sum(chosen[0])
    assert chosen[1][best[1]] > 0.75 * sum(chosen[1])
    assert len(before) == 1 or all(chosen[0]), "each way is tried"


def test_without_a_compiler_it_is_packed(fresh, monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    fast = trained_policy(tiny_head(**WIDE)).compile()
    assert fast.compiled.method == "packed"
    assert fast.compiled.reason == "there is no C++ compiler (apt-get install g++), so packed"


def test_without_a_home_it_is_packed(fresh, monkeypatch):
    monkeypatch.delenv("ACTION_HEADS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(native.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    fast = trained_policy(tiny_head(**WIDE)).compile()
    assert (fast.compiled.method, "set ACTION_HEADS_CACHE" in fast.compiled.reason) == ("packed", True)


def test_a_compiler_that_fails_is_told_and_leaves_nothing(fresh, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "--no-such-flag"))
    fast = trained_policy(tiny_head(**WIDE)).compile("native")
    assert fast.compiled.method == "packed"
    assert "no-such-flag" in fast.compiled.reason
    assert list(fresh.iterdir()) == []


def test_every_mechanism_of_its_backbones_is_known():
    """The native code knows every mechanism of its backbones; a new one must be added to it."""
    taken = {name for backbone in BACKBONES for name in tiny_head(backbone).config.mechanisms}
    assert taken == {name for name, kind in ADAPTERS.items() if kind.slots}
