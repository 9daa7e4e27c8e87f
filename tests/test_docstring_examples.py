"""A test that runs the examples in the docstrings of public modules, offline."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = (
    "action_heads.acting",
    "action_heads.adapters.adaln",
    "action_heads.adapters.base",
    "action_heads.bank",
    "action_heads.config",
    "action_heads.counts",
    "action_heads.denoiser",
    "action_heads.fit",
    "action_heads.head",
    "action_heads.observed_policy",
    "action_heads.policy",
    "action_heads.runtime.slow_encoder",
    "action_heads.vlm.stale",
)


def examples(name: str) -> list[doctest.DocTest]:
    """Return the docstrings of a module that have examples; each runs on its own, without the module's names."""
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(name), globs={})
    return [test for test in found if test.examples]


def pytest_generate_tests(metafunc: pytest.Metafunc):
    pairs = [(name, test) for name in MODULES for test in examples(name)]
    metafunc.parametrize("example", [test for _, test in pairs], ids=[test.name for _, test in pairs])


def test_example_runs(example, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(example)
    assert not runner.failures, capsys.readouterr().out
