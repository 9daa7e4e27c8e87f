"""A test that runs the examples in the docstrings of public modules, offline."""

from __future__ import annotations

import doctest
import threading
from importlib import import_module
from typing import Any

import pytest
from small import conditions, tiny_head, trained_policy

MODULES = (
    "action_heads.acting",
    "action_heads.actions.layouts",
    "action_heads.actions.normalize",
    "action_heads.actions.rotations",
    "action_heads.actions.spaces",
    "action_heads.adapters.adaln",
    "action_heads.adapters.base",
    "action_heads.bank",
    "action_heads.config",
    "action_heads.counts",
    "action_heads.data.schema",
    "action_heads.data.spec",
    "action_heads.denoiser",
    "action_heads.encoders.observation",
    "action_heads.fit",
    "action_heads.head",
    "action_heads.io.hub",
    "action_heads.kinematics.model",
    "action_heads.observed_policy",
    "action_heads.policy",
    "action_heads.runtime.background",
    "action_heads.runtime.compiled",
    "action_heads.runtime.execution",
    "action_heads.runtime.remote",
    "action_heads.runtime.slow_encoder",
    "action_heads.vlm.stale",
    "action_heads.vlm.tap",
)
EXTRAS = {  # The modules that an example needs beside the required dependencies.
    "action_heads.encoders.observation": ("torchvision",),
    "action_heads.runtime.remote": ("websockets", "msgpack"),
    "action_heads.vlm.tap": ("transformers",),
}
# Examples of these modules use the documented object without an import. Those of `runtime` also use a policy, its
# condition and an observation that the reader has.
UNIMPORTED = ("action_heads.actions.layouts", "action_heads.actions.rotations", "action_heads.runtime")


def examples(name: str) -> list[doctest.DocTest]:
    """Return the docstrings of a module that have examples; each runs on its own, without the module's names."""
    module = import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, globs={})
    for test in found:
        if name.startswith(UNIMPORTED):
            own = test.name.removeprefix(f"{name}.").partition(".")[0]
            test.globs[own] = getattr(module, own, None)
    return [test for test in found if test.examples]


def pytest_generate_tests(metafunc: pytest.Metafunc):
    pairs = [(name, test) for name in MODULES for test in examples(name)]
    metafunc.parametrize(("module", "example"), pairs, ids=[test.name for _, test in pairs])


@pytest.fixture
def given(module):
    """Return the names that the examples of `runtime` assume; their server is one on this machine."""
    for name in EXTRAS.get(module, ()):
        pytest.importorskip(name)
    if not module.startswith("action_heads.runtime"):
        yield {}
        return
    policy = trained_policy(tiny_head())
    names: dict[str, Any] = {"policy": policy, "cond": conditions(), "observation": conditions()}
    names["encode"] = lambda observation: observation
    if module != "action_heads.runtime.remote":
        yield names
        return
    from action_heads.runtime.remote import RemotePolicy
    from action_heads.runtime.serve import server

    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        yield names | {"RemotePolicy": lambda _: RemotePolicy(url, timeout=60)}
        running.shutdown()


def test_example_runs(module, example, given, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    example.globs |= given
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(example)
    assert not runner.failures, capsys.readouterr().out
