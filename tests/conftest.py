"""Fixtures over the registries: a test that takes `policy` runs for every backbone with every adapter."""

from __future__ import annotations

import pytest
from small import tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES


@pytest.fixture(params=sorted(BACKBONES))
def backbone(request) -> str:
    return request.param


@pytest.fixture(params=sorted(ADAPTERS))
def mechanism(request) -> str:
    return request.param


@pytest.fixture
def head(backbone) -> ActionHead:
    return tiny_head(backbone)


@pytest.fixture
def policy(head, mechanism):
    return trained_policy(head, mechanism)
