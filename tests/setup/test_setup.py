"""`action-heads setup` says in a line what is ready, and names what is wrong with its remedy."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy")

from action_heads_lab.setup import command, sources
from action_heads_lab.setup.archives import Archive
from action_heads_lab.setup.command import SetupConfig, setup
from action_heads_lab.setup.fetch import Source
from action_heads_lab.setup.trees import git_hash
from action_heads_lab.sim import libero_files, mimicgen
from test_archives import tarball, wheel

pytestmark = pytest.mark.sim
ASSETS = {f"{name}/a.xml": b"<a/>" for name in libero_files.FOLDERS}
PRO = {
    "bddl_files/libero_object_swap/a.bddl": b"(define)",
    "init_files/libero_object_swap/a.pruned_init.npz": b"states",
}
CODE = {  # as MimicGen, it prints what it cannot import, and adds its environments to those of robosuite
    "mimicgen/__init__.py": b"""
try:
    from mimicgen.envs.robosuite import a
except ImportError as error:
    print(f"Got error: {error}")
""",
    "mimicgen/envs/robosuite/a.py": f"""
from robosuite.environments import base
base.REGISTERED_ENVS.update({dict.fromkeys(task.name for task in mimicgen.TASKS.values())})
""".encode(),
    "mimicgen/models/robosuite/assets/a.xml": b"<a/>",
    "robosuite_task_zoo/__init__.py": b"name = 'zoo'",
}


def trees(files, folder) -> dict:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {path.name: (git_hash(path),) for path in folder.iterdir()}


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Return a folder with small archives of all benchmarks, in place of the real ones. hf-libero is installed."""
    if command.missing("sim"):
        pytest.skip("needs the sim extra")
    local = tmp_path / "archives"
    local.mkdir()
    (local / "assets.whl").write_bytes(wheel(ASSETS))
    (local / "tasks.whl").write_bytes(wheel(PRO))
    (local / "code.tar.gz").write_bytes(tarball(CODE))
    archives = {"LIBERO": ("assets.whl", ASSETS), "LIBERO_PRO": ("tasks.whl", PRO), "MIMICGEN": ("code.tar.gz", CODE)}
    for name, (file, files) in archives.items():
        archive = Archive(file, "http://127.0.0.1:9/", {"package/assets/": "", "repo-abc/": ""})
        monkeypatch.setattr(command.sources, name, (Source(f"a fake {name}", (archive,)),))
        monkeypatch.setattr(command.sources, f"{name}_TREES", trees(files, tmp_path / name))
    monkeypatch.setattr(command, "install", lambda requirement: pytest.fail(f"{requirement} was installed"))
    return local


def forget() -> dict:
    """Forget the modules of MimicGen, as a new process does, and return them."""
    importlib.invalidate_caches()
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in sources.MIMICGEN_TREES}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return an empty home, with a package like hf-libero's on the path, and without MimicGen."""
    robosuite = command.contexts.import_robosuite()
    names = {task.name for task in mimicgen.TASKS.values()}
    others = {name: env for name, env in robosuite.environments.base.REGISTERED_ENVS.items() if name not in names}
    monkeypatch.setattr(robosuite.environments.base, "REGISTERED_ENVS", others)
    kept = forget()
    hidden = [path for path in sys.path if not any((Path(path) / name).is_dir() for name in sources.MIMICGEN_TREES)]
    monkeypatch.setattr(sys, "path", hidden)
    assert not any(map(command.find_spec, sources.MIMICGEN_TREES))
    for name in ("bddl_files", "init_files"):
        (tmp_path / "site/libero/libero" / name).mkdir(parents=True)
    (tmp_path / "site/libero/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    monkeypatch.setattr(libero_files.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(libero_files, "sizes", lambda: {name: len(content) for name, content in ASSETS.items()})

    class Ours:
        def locate_file(self, name):
            return tmp_path / "site" / name

    monkeypatch.setattr(libero_files, "_installed", {"hf-libero": Ours()}.get)
    monkeypatch.delenv("LIBERO_CONFIG_PATH", raising=False)
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command.sysconfig, "get_path", lambda name: str(tmp_path / "site"))
    yield tmp_path / "home"
    forget()
    sys.modules.update(kept)


def test_libero_from_local_files_and_a_second_run(benchmarks, home, capsys):
    setup(SetupConfig("libero", source=benchmarks))
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("LIBERO is ready: hf-libero ")
    assert (home / ".libero/config.yaml").exists()
    libero_files.check()  # what rollouts ask
    setup(SetupConfig("libero"))  # the address of the fake archive answers nobody
    assert "ready" in capsys.readouterr().out
    (home / ".cache/libero/assets" / next(iter(ASSETS))).write_bytes(b"damaged")
    with pytest.raises(FileExistsError, match="--replace"):
        setup(SetupConfig("libero"))
    setup(SetupConfig("libero", source=benchmarks, replace=True))
    libero_files.check()


def test_libero_pro_needs_libero_and_its_damage_is_named(benchmarks, home, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="Run `action-heads setup libero"):
        setup(SetupConfig("libero-pro", source=benchmarks))
    setup(SetupConfig("libero", source=benchmarks))
    capsys.readouterr()
    setup(SetupConfig("libero-pro", source=benchmarks))
    assert capsys.readouterr().out.startswith("LIBERO-PRO is ready: 1 tasks, from ")
    for name in PRO:
        path = tmp_path / "cache/libero-pro" / name
        path.write_bytes(b"damaged")
        with pytest.raises(FileExistsError, match=f"not complete.*: {name.partition('/')[0]}\\..*--replace"):
            setup(SetupConfig("libero-pro", source=benchmarks))
        setup(SetupConfig("libero-pro", source=benchmarks, replace=True))
        assert path.read_bytes() == PRO[name]


def test_half_a_configuration_is_not_ready(benchmarks, home, capsys):
    (home / ".libero").mkdir(parents=True)
    (home / ".libero/config.yaml").touch()
    with pytest.raises(ValueError, match=r"no path for benchmark_root.*rm .*config\.yaml"):
        setup(SetupConfig("libero", source=benchmarks))
    assert "ready" not in capsys.readouterr().out


def test_without_a_network_the_remedy_is_named(benchmarks, home):
    for benchmark in ("libero", "mimicgen"):
        with pytest.raises(OSError, match=r"nothing could be downloaded.*--source"):
            setup(SetupConfig(benchmark))


def test_mimicgen_is_found_in_this_process_and_in_later_ones(benchmarks, home, capsys, tmp_path):
    setup(SetupConfig("mimicgen", source=benchmarks))
    assert capsys.readouterr().out.startswith("MimicGen is ready: ")
    mimicgen.check()
    assert (tmp_path / "site" / command.PTH).read_text() == f"{tmp_path}/cache/mimicgen\n"


@pytest.mark.parametrize("benchmark", ["libero", "mimicgen"])
def test_a_source_that_is_no_folder_is_refused(benchmark, benchmarks, home, tmp_path):
    setup(SetupConfig(benchmark, source=benchmarks))
    for wrong in (tmp_path / "nothing", benchmarks / "assets.whl"):
        with pytest.raises(NotADirectoryError, match=r"--source .*(nothing|whl) is not a folder"):
            setup(SetupConfig(benchmark, source=wrong))


def removed(path) -> None:
    path.unlink()


def changed(path) -> None:
    path.write_bytes(path.read_bytes().replace(b"a", b"b"))


def emptied(path) -> None:
    path.write_bytes(b"")


DAMAGES = [removed, changed, emptied]


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_mimicgen_is_named_and_replaced_on_request(damage, name, benchmarks, home, tmp_path, capsys):
    setup(SetupConfig("mimicgen", source=benchmarks))
    path = tmp_path / "cache/mimicgen" / name
    damage(path)
    forget()
    capsys.readouterr()
    with pytest.raises(FileExistsError, match=f"not complete.*: {name.partition('/')[0]}\\..*--replace"):
        setup(SetupConfig("mimicgen", source=benchmarks))
    assert "ready" not in capsys.readouterr().out
    setup(SetupConfig("mimicgen", source=benchmarks, replace=True))
    assert "ready" in capsys.readouterr().out
    assert path.read_bytes() == CODE[name]


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_the_state_of_a_mimicgen_that_was_installed_in_another_way_is_told(
    damage, benchmarks, home, tmp_path, monkeypatch, capsys
):
    own = tmp_path / "own"
    trees(CODE, own)
    monkeypatch.syspath_prepend(own)
    if damage:
        damage(own / "mimicgen/models/robosuite/assets/a.xml")
    setup(SetupConfig("mimicgen"))  # the address of the fake archive answers nobody
    state = "whose files are not those of the tested commit" if damage else "with the tested files"
    assert f"mimicgen in {own}, {state}; robosuite_task_zoo in {own}, with the tested files" in capsys.readouterr().out
    for config in (SetupConfig("mimicgen", replace=True), SetupConfig("mimicgen", source=benchmarks)):
        with pytest.raises(ValueError, match=r"fill .*cache/mimicgen, but Python finds MimicGen elsewhere, in .*own"):
            setup(config)
    assert not (tmp_path / "cache").exists()
    shutil.rmtree(own / "robosuite_task_zoo")
    forget()
    setup(SetupConfig("mimicgen", source=benchmarks))
    said = capsys.readouterr().out
    assert f"its code in {tmp_path}/cache/mimicgen, from {benchmarks} and checked; mimicgen in {own}, " in said


@pytest.mark.parametrize("damage", [removed, emptied])
def test_a_mimicgen_without_its_environments_is_not_ready(damage, benchmarks, home, tmp_path, monkeypatch):
    trees(CODE, tmp_path / "own")
    monkeypatch.syspath_prepend(tmp_path / "own")
    damage(tmp_path / "own/mimicgen/envs/robosuite/a.py")
    reason = r" \(Got error: .*\)" if damage is removed else ""
    with pytest.raises(ImportError, match=rf"lacks the environments Stack_D1, .*MugCleanup_D1{reason}\. Run"):
        setup(SetupConfig("mimicgen"))
    with pytest.raises(ImportError, match=r"lacks the environments Coffee_D2\b"):
        mimicgen.register("Coffee_D2")
    mimicgen.register("Lift")


def test_six_is_installed_or_asked_for(benchmarks, home, monkeypatch):
    known, asked = command.find_spec, []
    for module in (command, mimicgen):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == "six" else known(name))
    monkeypatch.setattr(command, "install", asked.append)
    for install in (False, True):
        with pytest.raises(ImportError, match=r"needs six, which is not installed.*`pip install six`"):
            setup(SetupConfig("mimicgen", source=benchmarks, install=install))
        assert asked == ["six"] * install


@pytest.mark.parametrize(("name", "version"), [("mujoco", "3.12.0"), ("robosuite", "1.5.2")])
@pytest.mark.parametrize("benchmark", ["libero", "mimicgen"])
def test_wrong_versions_are_named(name, version, benchmark, benchmarks, home, monkeypatch):
    known = command.contexts.version
    monkeypatch.setattr(command.contexts, "version", lambda one: version if one == name else known(one))
    with pytest.raises(ImportError, match=f"{name} {version} is installed.*robosuite==1.4.1"):
        setup(SetupConfig(benchmark))


def test_robosuite_stays_at_its_version_whoever_installs(tmp_path, monkeypatch):
    override = tmp_path / "override.txt"
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    first, last = command.installing("hf-libero==0.1.4", override)
    assert first[-1] == "hf-libero==0.1.4"
    assert last[-2:] == ["--no-deps", command.ROBOSUITE]
    monkeypatch.setattr(command.shutil, "which", lambda name: sys.executable)  # answers --version, as uv does
    (only,) = command.installing("hf-libero==0.1.4", override)
    assert only[-3:] == ["--override", str(override), "hf-libero==0.1.4"]
    monkeypatch.setattr(command, "installing", lambda *_: [[sys.executable, "-c", "raise SystemExit(1)"]])
    with pytest.raises(ImportError, match="cmake and a C compiler"):
        command.install("hf-libero==0.1.4")


def test_the_guide_names_the_archives_that_source_takes():
    guide = (Path(__file__).parents[2] / "docs/guides/evaluate.md").read_text(encoding="utf-8")
    guide = "\n".join([guide, *(guide.replace("{1..5}", str(part)) for part in range(1, 6))])
    archives = [
        archive
        for first in (sources.LIBERO[0], sources.LIBERO_PRO[0], sources.MIMICGEN[0])
        for archive in first.archives
    ]
    assert len(archives) == 8
    for archive in archives:
        assert f"`{archive.name}`" in guide
        assert archive.place in guide
