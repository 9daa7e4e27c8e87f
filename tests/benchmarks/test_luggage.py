"""The luggage of a GPU pack holds what the lent machine lacks, is checked for its size, and is found after setup.sh."""

import subprocess
import sys
import tarfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_simulation = pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the sim extra")


@pytest.fixture
def luggage(monkeypatch):
    for folder in ("benchmarks", "benchmarks/gpu"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return import_module("luggage")


@pytest.fixture
def start(luggage, monkeypatch, tmp_path):
    def start(*arguments: str) -> Path:
        monkeypatch.setattr(luggage, "check_python", lambda: None)
        out = tmp_path / "luggage"
        monkeypatch.setattr(sys, "argv", ["luggage.py", *arguments, "--out", str(out)])
        luggage.main()
        return out

    return start


def names(out: Path) -> list[str]:
    with tarfile.open(out / "site.tar.xz") as archive:
        return archive.getnames()


@needs_simulation
def test_every_pack_has_a_load_of_heads_and_packages_that_there_are(luggage):
    numbers = {int(path.stem.split("_")[1]) for path in (ROOT / "benchmarks" / "gpu").glob("pack_*.py")}
    loads = luggage.loads()
    assert {*loads} == numbers
    for load in loads.values():
        assert {*load.heads} <= {*luggage.bundled()}
        assert not {luggage.plain(name) for name in load.packages} & luggage.installed(luggage.MACHINE)


@needs_simulation
def test_the_luggage_is_found_after_its_setup(start, tmp_path):
    out = start("4")
    assert "tyro/__init__.py" in names(out)
    command = f"source {out}/setup.sh && echo $PYTHONPATH"
    site = tmp_path / "site"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LUGGAGE_SITE": str(site)}
    done = subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(f"{site}:{tmp_path}:"), done.stderr
    assert (site / "tyro" / "__init__.py").exists()


@needs_simulation
def test_of_robosuite_travels_what_a_task_opens(luggage):
    found = dict(luggage.contents(("robosuite",), ("Lift",), luggage.opened_by(["Lift"])))
    meshes = [name for name in found if name.endswith((".stl", ".obj", ".msh"))]
    assert any("robots/panda" in name for name in meshes)
    assert not [name for name in meshes if "robots/panda" not in name and "gripper" not in name and "mount" not in name]
    assert "robosuite/environments/manipulation/lift.py" in found
    assert any(name.startswith("robosuite-1.4.1.dist-info/") for name in found), "its version is checked"


@needs_simulation
def test_luggage_over_the_limit_is_refused_with_the_remedy(luggage, start, monkeypatch, capsys):
    start("4")
    said = capsys.readouterr().out
    assert "git sparse-checkout set" in said
    assert "!/action_heads/weights/mlp-5m-fk/" in said
    assert "!/action_heads/weights/mixer-5m-fk/" not in said, "this pack loads it"
    monkeypatch.setattr(luggage, "LIMIT", 2**20)
    with pytest.raises(SystemExit, match=r"together .* but at most 1\.0 MiB may travel\. Choose fewer"):
        start("4")


@needs_simulation
def test_a_package_that_is_not_here_is_named_before_anything_is_packed(luggage, start, monkeypatch, tmp_path):
    monkeypatch.setattr(luggage, "loads", lambda: {4: luggage.Load(packages=("tyro", "no-such-package"))})
    with pytest.raises(SystemExit, match="no-such-package is not installed"):
        start("4")
    assert not (tmp_path / "luggage" / "site.tar.xz").exists()


@needs_simulation
def test_bundled_heads_that_no_pack_loads_do_not_count(luggage):
    every = luggage.size_of_tree(())
    head = luggage.bundled()[0]
    spared = every - luggage.size_of_tree([head])
    assert spared >= (ROOT / luggage.HEADS / head / "model.safetensors").stat().st_size


def test_assets_of_libero_all_have_their_size_but_are_zeros_if_no_task_opens_them(luggage, tmp_path):
    """LIBERO's check compares sizes."""
    pillow = pytest.importorskip("PIL.Image")
    used, unused, large = (tmp_path / name for name in ("used.msh", "unused.msh", "large.png"))
    for path in (used, unused):
        path.write_bytes(b"mesh")
    pillow.new("RGB", (2 * luggage.PIXELS, 8)).save(large)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in (used, unused, large):
            luggage.add(archive, f"libero/libero/assets/{path.name}", path, {used, large})
    with tarfile.open(tmp_path / "a.tar") as archive:
        content = {name: archive.extractfile(f"libero/libero/assets/{name}") for name in ("used.msh", "unused.msh")}
        found = {name: file.read() for name, file in content.items() if file}
        assert found == {"used.msh": b"mesh", "unused.msh": bytes(4)}
        assert archive.getmember("libero/libero/assets/large.png").size >= large.stat().st_size
        assert pillow.open(archive.extractfile("libero/libero/assets/large.png")).size == (luggage.PIXELS, 4)


def test_a_texture_that_would_grow_is_left_as_it_is(luggage, tmp_path):
    """LIBERO's check compares sizes, and a few palettes take fewer bytes than their smaller images."""
    pillow, path = pytest.importorskip("PIL.Image"), tmp_path / "stripes.png"
    striped = pillow.new("L", (luggage.PIXELS + 12, 64))
    striped.putdata([255 * (x % 4 < 2) for x in range(luggage.PIXELS + 12)] * 64)
    striped.save(path, optimize=True)
    grown = striped.copy()
    grown.thumbnail((luggage.PIXELS, luggage.PIXELS))
    grown.save(tmp_path / "grown.png")
    assert (tmp_path / "grown.png").stat().st_size > path.stat().st_size
    assert luggage.smaller(path.read_bytes()) == path.read_bytes()


def test_another_python_is_refused(luggage, monkeypatch):
    monkeypatch.setattr(luggage.sys, "platform", "darwin")
    with pytest.raises(SystemExit, match=r"on darwin .*but the machine with the GPU has Python 3\.12 on linux x86_64"):
        luggage.check_python()


def test_a_list_of_packages_is_that_of_pip(luggage, tmp_path):
    path = tmp_path / "machine.txt"
    path.write_text("# a comment\nTorch==2.11.0\nhuggingface_hub  # x\npeft @ file:///x\n\n")
    assert luggage.installed(path) == {"torch", "huggingface-hub", "peft"}
