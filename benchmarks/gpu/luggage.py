"""Make the luggage of a pack: one folder with the Python packages and files that the machine with the GPU lacks.

python benchmarks/gpu/luggage.py 2                       # makes .luggage/, which git ignores, for pack 2
python benchmarks/gpu/luggage.py 2 --tasks Stack         # with the files of other tasks
python benchmarks/gpu/luggage.py 4 --heads mlp-5m-fk     # with other bundled heads

On that machine, in the folder of the repository:

source .luggage/setup.sh && python benchmarks/gpu/pack_2_images.py

It is made from the environment that runs this, which must have the packages, LIBERO or MimicGen (`action-heads setup`)
and, like that machine, Python 3.12 on Linux and x86-64. machine.txt lists what is there. Of simulators it takes the
code, and of their meshes and textures those that the tasks of the pack open. The repository travels too, with only the
bundled heads that the pack loads, and both together may have 64 MiB.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packs import ROOT, files

LIMIT = 64 * 2**20
MACHINE, PYTHON = Path(__file__).with_name("machine.txt"), (3, 12)
HEADS = "action_heads/weights"
TEXT = {".py", ".json", ".xml", ".txt", ".bddl", ".yaml", ".yml", ".npz"}  # of simulators, with short ones in full
SHORT = 300_000  # bytes
PIXELS = 1024  # Textures of LIBERO with more of them a side are made smaller: its images have 128.
SUITES = ("libero_object", "libero_spatial", "libero_goal", "libero_10", "libero_90")
GL = ("libEGL.so.1", "libGLdispatch.so.0", "libOpenGL.so.0", "libGL.so.1", "libGLX.so.0", "libGLESv2.so.2")

COMMANDS = ("tyro", "typeguard", "docstring-parser", "tensorboardX")  # of `action-heads` and its training
ROBOSUITE = (*COMMANDS, "robosuite", "termcolor", "mujoco", "etils", "glfw", "pyopengl")
LIBERO = ("hf-libero", "bddl", "easydict", "future", "gymnasium", "farama-notifications", "robomimic")
RIVALS = ("diffusers", "lerobot", "draccus", "mergedeep", "toml", "typing-inspect", "gymnasium")

SETUP = """# source this in the folder of the repository: it puts the luggage on the path and installs nothing
luggage=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=${LUGGAGE_SITE:-/tmp/luggage}
mkdir -p "$site" && tar xJf "$luggage/site.tar.xz" -C "$site" || return 1
PATH="$PATH:/sbin" ldconfig -p | grep -q libEGL.so.1 ||
  export LD_LIBRARY_PATH="$site/gl${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$site:$PWD:$PWD/lab:$PWD/lerobot_policy_dae:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 MUJOCO_GL=egl NUMBA_CACHE_DIR="$site/numba"
export LIBERO_CONFIG_PATH="$site/config"
"""


@dataclass(frozen=True)
class Load:
    """The needs of a pack: bundled heads, distributions, and tasks whose meshes and textures it opens."""

    heads: tuple[str, ...] = ()
    packages: tuple[str, ...] = COMMANDS
    tasks: tuple[str, ...] = ()


def loads() -> dict[int, Load]:
    """Return what each pack needs for its default options."""
    tables, images, stage1, unet, libero, mechanisms = (
        import_module(f"pack_{name}")
        for name in ("1_tables", "2_images", "4_stage1", "5_unet", "6_libero", "7_mechanisms")
    )
    del tables
    both = ("mixer-5m-fk", "mlp-5m-fk")
    suites = (task for suite in libero.SUITES for task in libero.of_suite(suite))
    return {
        1: Load(both, (*COMMANDS, *RIVALS)),
        2: Load(("mixer-5m-fk",), ROBOSUITE, tuple(images.TASKS)),
        3: Load(both, ()),
        4: Load(tuple(stage1.HEADS)[:2]),
        5: Load((), ROBOSUITE, (unet.TASK,)),
        6: Load(
            (libero.HEAD,),
            (*ROBOSUITE, *LIBERO),
            tuple(suites),
        ),
        7: Load((), ROBOSUITE, (mechanisms.TASK,)),
    }


def main() -> None:
    """Make the luggage of a pack, and print how large it and the repository are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = loads()
    parser.add_argument("pack", type=int, choices=known, help="number of the pack")
    parser.add_argument("--tasks", nargs="*", help="tasks in place of the pack's first ones")
    parser.add_argument("--heads", nargs="*", help="bundled heads that travel, in place of the pack's")
    parser.add_argument("--machine", type=Path, default=MACHINE, help="list of the packages that are there")
    parser.add_argument("--out", type=Path, default=ROOT / ".luggage", help="folder of the luggage, which git ignores")
    chosen = parser.parse_args()
    check_python()
    load, there = known[chosen.pack], installed(chosen.machine)
    heads, tasks = (load.heads if chosen.heads is None else chosen.heads), chosen.tasks or load.tasks
    packages = [name for name in load.packages if plain(name) not in there]
    made = make(packages, tasks, chosen.out)
    unused = [name for name in bundled() if name not in heads]
    tree = size_of_tree(unused)
    print(f"pack {chosen.pack}: {', '.join(packages) or 'no packages'}" + (f"; {', '.join(tasks)}" if tasks else ""))
    print(f"{mib(made)} in {chosen.out}, {mib(tree)} in the repository with {', '.join(heads) or 'no bundled head'}")
    if made + tree > LIMIT:
        sys.exit(
            f"together {mib(made + tree)}, but at most {mib(LIMIT)} may travel. Choose fewer --tasks or --heads, or "
            "remove large files from the repository"
        )
    print(f"together {mib(made + tree)} of {mib(LIMIT)}. Before: {shlex.join(sparse(unused))}")
    print("Afterwards: git sparse-checkout disable")


def check_python() -> None:
    """Exit unless compiled packages of this environment work on the other machine."""
    found = (sys.version_info[:2], sys.platform, platform.machine())
    if found != (PYTHON, "linux", "x86_64"):
        sys.exit(
            f"this is Python {platform.python_version()} on {sys.platform} {platform.machine()}, but the machine with "
            "the GPU has Python 3.12 on linux x86_64. Run this there"
        )


def plain(name: str) -> str:
    """Return the name of a distribution as indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(path: Path) -> set[str]:
    """Return the names in a list of packages such as that of `pip list --format=freeze`."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {plain(re.split(r"[=<>@\s]", line)[0]) for line in lines if line}


def make(packages: Sequence[str], tasks: Sequence[str], out: Path) -> int:
    """Write the luggage to a folder, and return its size."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / ".gitignore", "*\n")
    files.write_text(out / "setup.sh", SETUP)
    opened = opened_by(tasks)
    found = dict(contents(packages, tasks, opened))
    with tarfile.open(out / "site.tar.xz", "w:xz", preset=2) as archive:
        for name, path in found.items():
            add(archive, name, path, opened)
    return sum(path.stat().st_size for path in out.iterdir())


def contents(packages: Sequence[str], tasks: Sequence[str], opened: set[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the name in the luggage and the path of every file."""
    suites = {task.partition("/")[0] for task in tasks}
    for package in packages:
        for name, path in files_of(package):
            if package not in ("robosuite", "hf-libero") or wanted(path, opened, suites):
                yield name, path
    if any(name in suites for name in SUITES):
        yield from assets_of_libero()
    for name in ("mimicgen", "robosuite_task_zoo") if needs_mimicgen(tasks) else ():
        yield from ((found, path) for found, path in folder_of(name) if wanted(path, opened, suites))
    if tasks:
        yield from libraries()


def files_of(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of an installed distribution."""
    try:
        found = distribution(package).files or ()
    except PackageNotFoundError:
        sys.exit(f"{package} is not installed, and the luggage is made of this environment. Install it, then try again")
    for file in found:
        path = Path(str(file.locate())).resolve()
        if "__pycache__" not in file.parts and ".." not in file.parts and path.is_file():
            yield str(file), path


def folder_of(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of a package that no distribution has."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{package} is not installed. Run `action-heads setup mimicgen`, then try again")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(root.parent)), path


def wanted(path: Path, opened: set[Path], suites: set[str]) -> bool:
    """Return whether a file of a simulator travels."""
    if of := {*path.parts} & {*SUITES}:
        return bool(of & suites)
    return path in opened or (path.suffix in TEXT and path.stat().st_size < SHORT) or ".dist-info" in str(path)


def assets_of_libero() -> Iterator[tuple[str, Path]]:
    """Yield the assets of LIBERO. `add` fills those that no task opens with zeros."""
    from action_heads_lab.sim import libero_files

    root = libero_files.assets(libero_files.package()).resolve()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            yield f"libero/libero/assets/{path.relative_to(root)}", path


def libraries() -> Iterator[tuple[str, Path]]:
    """Yield the loaders of OpenGL and EGL, which that machine may lack. Its driver is its own."""
    path = os.environ | {"PATH": f"{os.environ['PATH']}:/sbin"}
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True, env=path).stdout
    for name in GL:
        if found := re.search(rf"{re.escape(name)} \(.*x86-64.*\) => (\S+)", listed):
            yield f"gl/{name}", Path(found[1]).resolve()


def add(archive: tarfile.TarFile, name: str, path: Path, opened: set[Path]) -> None:
    """Add a file to the luggage: as it is, or an asset of LIBERO smaller or empty.

    Zeros give an asset its size, which `libero_files.check` compares. They add nothing to the archive.
    """
    content = path.read_bytes()
    size = len(content)
    if "libero/assets/" in name:
        if path not in opened and path.suffix != ".xml":
            content = b""
        elif path.suffix == ".png":
            content = smaller(content)
        content = content.ljust(size, b"\0")
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), path.stat().st_mode & 0o777
    archive.addfile(info, io.BytesIO(content))


def smaller(image: bytes) -> bytes:
    """Return a texture with at most `PIXELS` a side, unless this takes more bytes than the texture itself."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as found:
        if max(found.size) <= PIXELS:
            return image
        found.thumbnail((PIXELS, PIXELS))
        written = io.BytesIO()
        found.save(written, "png")
    return min(image, written.getvalue(), key=len)


def opened_by(tasks: Iterable[str]) -> set[Path]:
    """Return the meshes and textures of tasks, whose scenes are built but not compiled."""
    found: set[Path] = set()
    if not (tasks := list(tasks)):
        return found
    import mujoco
    from action_heads_lab.sim.suites import make as simulate

    class Read(Exception):
        pass

    def read(xml: str, *_: object) -> None:
        found.update(Path(name).resolve() for name in re.findall(r'file="([^"]+)"', xml))
        raise Read

    compiled, mujoco.MjModel.from_xml_string = mujoco.MjModel.from_xml_string, read  # pyright: ignore
    try:
        for task in tasks:
            with suppress(Read):
                simulate(task)
    finally:
        mujoco.MjModel.from_xml_string = compiled  # pyright: ignore
    return found


def needs_mimicgen(tasks: Iterable[str]) -> bool:
    """Return whether one of the tasks is one of MimicGen."""
    from action_heads_lab.sim.tasks import get_task

    return any(get_task(task).suite == "mimicgen" for task in tasks)


def bundled() -> list[str]:
    """Return the names of the bundled heads."""
    return sorted(path.parent.name for path in (ROOT / HEADS).glob("*/model.safetensors"))


def size_of_tree(unused: Iterable[str]) -> int:
    """Return how many bytes git tracks or does not ignore, without some of the bundled heads."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    left_out = tuple(f"{HEADS}/{name}/" for name in unused)
    paths = (ROOT / name for name in {*named} if name and not name.startswith(left_out))
    return sum(path.stat().st_size for path in paths if path.is_file())


def sparse(unused: Sequence[str]) -> list[str]:
    """Return the command that takes bundled heads out of the working tree, until it is told otherwise."""
    return ["git", "sparse-checkout", "set", "--no-cone", "/*", *(f"!/{HEADS}/{name}/" for name in unused)]


def mib(size: int) -> str:
    """Return a size in MiB."""
    return f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    main()
