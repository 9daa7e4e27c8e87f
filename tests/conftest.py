"""Fixtures over the registries, so that a test with `policy` runs for every backbone with every adapter."""

from __future__ import annotations

import os

# Each of the processes that share the cores gets one thread. This must be set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from small import tiny_head, trained_policy

from action_heads import ActionHead
from action_heads._util import extras
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES

# Starts autograd. After `torch.export` it would start with threads, and no forked child of this process could train.
torch.ones(1, requires_grad=True).sum().backward()


def pytest_generate_tests(metafunc: pytest.Metafunc):
    """Parametrise by backbone, by mechanism, or by every mechanism on every backbone that supports it."""
    marks = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    named = {name for names in marks for name in ([names] if isinstance(names, str) else names)}
    wanted = [name for name in ("backbone", "mechanism") if name in metafunc.fixturenames and name not in named]
    if len(wanted) == 2:
        metafunc.parametrize(wanted, [(b, m) for b in BACKBONES for m in BACKBONES[b].mechanisms])
    elif wanted:
        metafunc.parametrize(wanted[0], sorted(BACKBONES if wanted == ["backbone"] else ADAPTERS))


@pytest.fixture(autouse=True)
def not_made_by_uv(monkeypatch):
    """Make messages name pip in every environment; `test_package` has those of one that uv made."""
    monkeypatch.setattr(extras, "made_by_uv", lambda: False)


@pytest.fixture
def head(backbone) -> ActionHead:
    return tiny_head(backbone)


@pytest.fixture
def policy(head, mechanism):
    return trained_policy(head, mechanism)
