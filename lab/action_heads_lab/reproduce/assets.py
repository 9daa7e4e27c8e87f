"""Which assets of LIBERO are installed: the meshes and textures that a run simulates, so they decide its outcome."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from action_heads.io.contents import combined
from action_heads_lab.setup.sources import LIBERO_TREES
from action_heads_lab.setup.trees import git_hash
from action_heads_lab.sim import libero_files

OFFICIAL = "official"  # LIBERO's own, of any source in `setup/sources.py`


def installed_assets() -> str:
    """Return "official" or a hash of other assets. Before LIBERO is set up, these are "official", which setup installs.

    `libero_files.check`, which every simulation calls, refuses assets that are not there or not complete.
    """
    try:
        folder = libero_files.assets(libero_files.package())
    except ImportError:
        return OFFICIAL
    return name_of(folder) if folder.is_dir() else OFFICIAL


@cache
def name_of(folder: Path) -> str:
    """Return "official" if all files are those of LIBERO, or else 8 hex digits that identify them."""
    found = {name: git_hash(folder / name) if (folder / name).exists() else "" for name in LIBERO_TREES}
    official = all(found[name] in hashes for name, hashes in LIBERO_TREES.items())
    return OFFICIAL if official else combined(sorted(found.items()))[:8]
