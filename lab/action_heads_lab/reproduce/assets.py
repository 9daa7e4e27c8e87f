"""Which files of LIBERO and MimicGen are installed: the scenes that a run simulates, which decide its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from action_heads.io.contents import combined
from action_heads_lab.setup.sources import LIBERO_TREES, MIMICGEN_TREES
from action_heads_lab.setup.trees import git_hash
from action_heads_lab.sim import libero_files, mimicgen

OFFICIAL = "official"  # LIBERO's own assets, of any source in `setup/sources.py`
TESTED = ""  # MimicGen of the tested commit; results do not name it


def of_libero() -> str:
    """Return "official" or a hash of other assets. Before LIBERO is set up, these are "official", which setup installs.

    `libero_files.check`, which every simulation calls, refuses assets that are not there or not complete.
    """
    try:
        folder = libero_files.assets(libero_files.package())
    except ImportError:
        return OFFICIAL
    return name_of([folder / name for name in LIBERO_TREES], LIBERO_TREES, OFFICIAL) if folder.is_dir() else OFFICIAL


def of_mimicgen() -> str:
    """Return "" or a hash of other code. Before MimicGen is set up, it is "", which setup installs."""
    found = [mimicgen.package(name) for name in MIMICGEN_TREES]
    places = [path for path in found if path]
    return name_of(places, MIMICGEN_TREES, TESTED) if len(places) == len(found) else TESTED


def name_of(places: Sequence[Path], trees: Mapping[str, Sequence[str]], usual: str) -> str:
    """Return `usual` if files and folders have accepted hashes, or else 8 hex digits that identify what they hold."""
    found = dict(zip(trees, map(_hash, places), strict=True))
    return usual if all(found[name] in good for name, good in trees.items()) else combined(sorted(found.items()))[:8]


@cache
def _hash(place: Path) -> str:
    return git_hash(place) if place.exists() else ""
