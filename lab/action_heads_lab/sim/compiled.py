"""Resets that compile a scene once: robosuite reads its meshes and textures anew every time, and they seldom change.

The cache is by the whole XML, so what comes out is what a new compilation would give, to the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from action_heads._util.extras import require


@contextmanager
def once() -> Iterator[None]:
    """Within, robosuite's simulations are copies of what was compiled before from the same XML.

    Nor does it then look through all of Python's memory for what it can free: the old model goes without.
    """
    binding: Any = require("robosuite.utils.binding_utils", extra="sim")
    own, collector = binding.MjSim.__dict__["from_xml_string"], binding.gc
    binding.MjSim.from_xml_string = classmethod(_of_copy)
    binding.gc = SimpleNamespace(collect=lambda: None)
    try:
        yield
    finally:
        binding.MjSim.from_xml_string, binding.gc = own, collector


def _of_copy(cls: Any, xml: str) -> Any:
    return cls(copy.copy(_model(xml)))


@lru_cache(maxsize=1)
def _model(xml: str):
    return require("mujoco", extra="sim").MjModel.from_xml_string(xml)
