"""Imports of moved modules by their old names, with a DeprecationWarning. Release 0.2 will remove them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from action_heads._util.extras import remedy

# New package -> the old names, below `action_heads`, of the modules that moved there.
_HOMES = {
    "action_heads._util": "attention checks conditions extras limits machine names precision",
    "action_heads.actions": "layouts normalize rotations spaces unwrap",
    "action_heads.cli": "command_line",
    "action_heads.diffusion": "continuing draws levels objectives samplers",
    "action_heads.io": "drafts files folders hub hub_calls hub_errors listing locks",
    "action_heads.runtime": "execution",
    "action_heads.data": "adapt.windows",
}
# Old name of a package -> new name of the package. Its modules moved with it.
PACKAGES = {
    "action_heads.lerobot": "lerobot_policy_dae",
    "action_heads.pretrain.sources": "action_heads.data",
    "action_heads.reproduce": "action_heads_lab.reproduce",
    "action_heads.sim": "action_heads_lab.sim",
}
MODULES = {
    f"action_heads.{name}": f"{home}.{name.rpartition('.')[2]}"
    for home, names in _HOMES.items()
    for name in names.split()
} | {
    "action_heads._util.ema": "action_heads.ema",
    "action_heads.adapt.hdf5_recording": "action_heads.data.robomimic",
    "action_heads.adapt.lerobot_recording": "action_heads.data.lerobot",
    "action_heads.adapt.policy": "action_heads.observed_policy",
    "action_heads.adapt.rollout": "action_heads_lab.adapted",
    "action_heads.adapt.recordings": "action_heads.data.formats",
    "action_heads.adapters.reading": "action_heads.adapters.condition_reader",
    "action_heads.encoders.saved": "action_heads.encoders.rebuild",
    "action_heads.pretrain.sources.raw": "action_heads.data.motion",
    "action_heads.pretrain.sources.reading": "action_heads.data.bounded_reads",
    "action_heads.pretrain.sources.told": "action_heads.data.notices",
    "action_heads.reproduce.pictures": "action_heads_lab.reproduce.images",
    "action_heads.runtime.door": "action_heads.runtime.listener",
    "action_heads.runtime.loop": "action_heads.runtime.sampling_loop",
    "action_heads.runtime.shared": "action_heads.runtime.shared_weights",
    "action_heads.runtime.turns": "action_heads.runtime.request_queue",
    "action_heads.sim.dialects": "action_heads_lab.sim.conventions",
    "action_heads.sim.sight": "action_heads_lab.sim.observations",
    "action_heads.sim.stage": "action_heads_lab.sim.rollout_worker",
    "action_heads.training.saved": "action_heads.training.checkpoint",
    "action_heads.training.start": "action_heads.training.accelerator",
    "action_heads.training.state": "action_heads.training.checkpoint",
    "action_heads.training.stop": "action_heads.training.signals",
    "action_heads.watch": "action_heads._util.change_detection",
}
EXTRAS = {"action_heads_lab": "sim", "lerobot_policy_dae": "lerobot"}


def new_name(name: str) -> str | None:
    """Return the new name of a module by its old name, or None for any other name."""
    if name in MODULES:
        return MODULES[name]
    for old, new in PACKAGES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return None


class MovedFinder(MetaPathFinder, Loader):
    """An importer that returns the module of the new name for the old name, so both are one module object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name."""
        return ModuleSpec(fullname, self) if new_name(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name into `sys.modules`."""
        old = module.__name__
        new = new_name(old)
        assert new
        top = new.partition(".")[0]
        try:
            found = import_module(new)
            if found.__file__ is None:  # Python was started in a clone, and this is a folder of it.
                raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != top:
                raise
            raise ImportError(f"{old} moved to {new}, which is not installed. {remedy(EXTRAS[top])}") from error
        warnings.warn(f"{old} moved to {new}. Release 0.2 will remove the old name.", DeprecationWarning, stacklevel=2)
        sys.modules[old] = found


def install() -> None:
    """Install the finder in front of all others, which would import second copies of modules in a moved package."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())
