"""Run `action-heads setup`: packages, files and configuration of a benchmark."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from action_heads._util.extras import missing, remedy
from action_heads._util.flags import Shown
from action_heads._util.machine import cache_home
from action_heads.io import drafts
from action_heads_lab.setup import sources
from action_heads_lab.setup.fetch import fetch
from action_heads_lab.setup.trees import git_hash
from action_heads_lab.sim import contexts, libero_files, mimicgen
from action_heads_lab.sim import libero_pro as perturbed

ROBOSUITE = "robosuite==1.4.1"
PTH = "action_heads_mimicgen.pth"
ENVIRONMENT = {"CMAKE_POLICY_VERSION_MINIMUM": "3.5"}  # else CMake 4 refuses egl-probe, which robomimic asks for


@dataclass(frozen=True)
class SetupConfig:
    """Set a benchmark up: install and fetch what is missing, check it, and say what is ready.

    Attributes:
        benchmark: libero, whose assets (357 MB to download) go to ~/.cache/libero/assets; libero-pro, perturbed tasks
            for LIBERO, which go to ~/.cache/action-heads/libero-pro; or mimicgen, whose code goes to
            ~/.cache/action-heads/mimicgen, under a licence for non-commercial use only. To roll a policy out after it,
            run examples/libero/reproduce.py --task libero_object or examples/mimicgen/reproduce.py --task stack_d1.
        source: folder that holds the archives, downloaded on another machine.
        replace: fetch the files anew if those that are there are incomplete or damaged.
        install: install missing packages with uv or pip.
    """

    benchmark: Literal["libero", "libero-pro", "mimicgen"]
    source: Annotated[Path | None, Shown("download them", "FOLDER")] = None
    replace: bool = False
    install: bool = True


def setup(config: SetupConfig) -> None:
    """Set a benchmark up, and print one line about what is ready."""
    if lacking := missing("sim"):
        raise ImportError(f"a simulation needs {', '.join(lacking)}, which is not installed. {remedy('sim')}")
    if config.source and not config.source.is_dir():
        raise NotADirectoryError(f"--source {config.source} is not a folder. Give the one that holds the archives")
    print({"libero": libero, "libero-pro": libero_pro, "mimicgen": mimic_gen}[config.benchmark](config))


def libero(config: SetupConfig) -> str:
    """Set LIBERO up: its package, its assets, and the configuration that its first import would ask for."""
    if config.install and find_spec("libero") is None:
        install("hf-libero==0.1.4")
    contexts.import_robosuite()
    root = libero_files.package()
    folder = libero_files.assets(root)
    how = fetch(folder, sources.LIBERO, sources.LIBERO_TREES, config.source, config.replace)
    written = libero_files.configure(root, folder)
    return (
        f"LIBERO is ready: {versions('hf-libero', 'robosuite', 'mujoco')}; {libero_files.count(folder)} asset files, "
        f"{how} and checked, in {folder}; configuration in {written}"
    )


def libero_pro(config: SetupConfig) -> str:
    """Fetch the tasks of LIBERO-PRO, which need LIBERO."""
    contexts.import_robosuite()
    libero_files.check()
    folder = perturbed.home()
    how = fetch(folder, sources.LIBERO_PRO, sources.LIBERO_PRO_TREES, config.source, config.replace)
    tasks = len(list(folder.glob("bddl_files/*/*.bddl")))
    return f"LIBERO-PRO is ready: {tasks} tasks, {how} and checked, in {folder}"


def mimic_gen(config: SetupConfig) -> str:
    """Set MimicGen up: its code and assets, on Python's path."""
    contexts.check_versions(robosuite=(1, 4, 1))
    for module in ("h5py", "six"):
        if config.install and find_spec(module) is None:
            install(module)
    contexts.import_robosuite()
    folder = cache_home() / "mimicgen"
    found = {name: mimicgen.package(name) for name in sources.MIMICGEN_TREES}
    elsewhere = {name: path for name, path in found.items() if path and path.resolve() != (folder / name).resolve()}
    states = []
    if len(elsewhere) < len(found):
        how = fetch(folder, sources.MIMICGEN, sources.MIMICGEN_TREES, config.source, config.replace)
        states.append(f"its code in {folder}, {how} and checked")
        if None in found.values():
            on_the_path(folder)
    elif config.source or config.replace:
        raise ValueError(
            f"--source and --replace fill {folder}, but Python finds MimicGen elsewhere, in "
            f"{' and '.join(map(str, elsewhere.values()))}. Leave these options out, or remove these folders from "
            "Python's path and run it again"
        )
    mimicgen.register()
    states += [f"{name} in {path.parent}, {_compared(name, path)}" for name, path in elsewhere.items()]
    return (
        f"MimicGen is ready: {versions('robosuite', 'mujoco')}; {'; '.join(states)}; under NVIDIA's licence for "
        "non-commercial use"
    )


def _compared(name: str, path: Path) -> str:
    """Return whether a package that was installed in another way has the tested files."""
    same = git_hash(path) in sources.MIMICGEN_TREES[name]
    return "with the tested files" if same else "whose files are not those of the tested commit"


def on_the_path(folder: Path) -> None:
    """Make the packages of a folder importable, in this process and in later ones of this Python."""
    link = Path(sysconfig.get_path("purelib")) / PTH
    with drafts.writing(link):
        link.write_text(f"{folder}\n", encoding="utf-8")
    sys.path.append(str(folder))
    importlib.invalidate_caches()


def install(requirement: str) -> None:
    """Install a package into this Python.

    Raises:
        ImportError: it could not be installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        override = Path(folder) / "override.txt"
        override.write_text(ROBOSUITE + "\n", encoding="utf-8")  # hf-libero asks for 1.4.0, which MimicGen fails on
        for command in installing(requirement, override):
            print(shlex.join(command), flush=True)
            if subprocess.run(command, env=os.environ | ENVIRONMENT).returncode:
                raise ImportError(
                    f"{requirement} could not be installed; the output above says why. It needs a network, and for "
                    "packages that are compiled cmake and a C compiler (Debian: apt-get install cmake "
                    "build-essential). Install it in your own way, then run this again"
                )
    importlib.invalidate_caches()


def installing(requirement: str, override: Path) -> list[list[str]]:
    """Return the commands that install a package into this Python and keep robosuite at its version."""
    uv = shutil.which("uv")
    if uv and subprocess.run([uv, "--version"], capture_output=True).returncode == 0:
        return [[uv, "pip", "install", "--python", sys.executable, "--override", str(override), requirement]]
    pip = [sys.executable, "-m", "pip", "install"]
    return [[*pip, requirement], [*pip, "--no-deps", ROBOSUITE]]


def versions(*names: str) -> str:
    """Return names and versions of installed distributions."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
