"""A head whose network is compiled by torch.compile (inductor), one program per shape.

Axes: b batch, h horizon, a action, P modulation values of all sites.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.extras import pip
from action_heads.backbones import Backbone
from action_heads.denoiser import Denoiser
from action_heads.modulation import HeadModulation
from action_heads.runtime import cache
from action_heads.runtime.shared_weights import FastHead, Recent, rebuilt

KEPT = 8  # number of programs kept, for the most recent shapes
OPTIONS: dict[str, Any] = {"freezing": True}  # Weights become constants, which inductor may pack.


class InductorHead(FastHead):
    """A head whose network is compiled. The loop is not: unrolled, it takes ten times as long and runs no faster."""

    def __init__(self, head: Denoiser, dtype: torch.dtype):
        super().__init__(head, dtype)
        self.copied = True
        with torch.inference_mode(False):
            self.backbone = with_plain_weights(self.backbone)
        self.programs: Recent[Callable[[Tensor, Tensor], Tensor]] = Recent(KEPT)

    def predict(self, x_t: Tensor, values: Tensor, modulation: HeadModulation) -> Tensor:
        """Predict as `Denoiser.predict` does, by a program that the first call with these shapes compiles."""
        key = (x_t.shape, values.shape, id(modulation))
        return self.programs.get(key, lambda: self._program(modulation))(x_t, values)

    def _program(self, modulation: HeadModulation) -> Callable[[Tensor, Tensor], Tensor]:
        plain = super().predict

        def network(x_t: Tensor, values: Tensor) -> Tensor:
            return plain(x_t, values, modulation)

        # The layers of an adapter with `relearn_step` are part of the network, and train on.
        constant = modulation.layers is None or modulation is self.modulation[modulation.mechanism.name]
        options = OPTIONS if constant and self.device.type == "cpu" else None
        return torch.compile(network, dynamic=False, fullgraph=True, options=options)


def with_plain_weights(network: Backbone) -> Backbone:
    """Return a network over the same memory, without the frozen weights and hooks of loading that stop torch 2.4."""
    new = rebuilt(network, lambda part: None)
    for part in new.modules():
        own = part._parameters.items()
        part._load_state_dict_pre_hooks = OrderedDict()
        part._parameters = {name: None if p is None else nn.Parameter(p.detach(), False) for name, p in own}
    return new


def cache_dir() -> Path:
    """Return the folder of inductor's compiled code, which torch executes."""
    if given := os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(given)
    # This repeats torch's own naming, since the function that does it has another name in each release.
    user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    return Path(tempfile.gettempdir()) / f"torchinductor_{user}"


def why_no_inductor() -> str:
    """Return why inductor can't be used here, or an empty string."""
    try:
        cache.private(cache_dir(), "set TORCHINDUCTOR_CACHE_DIR to a folder of your own")
    except OSError as error:
        return str(error)
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        return "there is no C++ compiler (apt-get install g++)"
    return why_no_triton() if find_spec("triton") else ""  # Inductor imports it for CPUs too, if it is there.


def why_no_triton() -> str:
    """Return why Triton, which is installed, can't be imported, or an empty string."""
    try:
        import_module("triton")
    except ImportError as error:  # Triton 3.0 needs setuptools, but does not ask for it.
        return f"Triton can't be imported: {error} ({pip()} install {error.name or 'triton'})"
    return ""
