"""Cache of compiled scenes, since robosuite reads all meshes and textures again at every reset.

The key of the cache is the whole XML, so a cached scene equals a newly compiled one to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

from action_heads._util.extras import require


@contextmanager
def once(fast: bool = False) -> Iterator[None]:
    """Make robosuite copy scenes that were compiled before from the same XML, within this context.

    The garbage collection that robosuite runs at every reset is skipped too.

    Args:
        fast: images of the scenes have no anti-aliasing.
    """
    binding: Any = require("robosuite.utils.binding_utils", extra="sim")
    own, collector = binding.MjSim.__dict__["from_xml_string"], binding.gc
    binding.MjSim.from_xml_string = classmethod(partial(_of_copy, fast))
    binding.gc = SimpleNamespace(collect=lambda: None)
    try:
        yield
    finally:
        binding.MjSim.from_xml_string, binding.gc = own, collector


def _of_copy(fast: bool, cls: Any, xml: str) -> Any:
    model = copy.copy(_model(xml))
    if fast:
        model.vis.quality.offsamples = 0
    return cls(model)


@lru_cache(maxsize=1)
def _model(xml: str):
    return require("mujoco", extra="sim").MjModel.from_xml_string(xml)
