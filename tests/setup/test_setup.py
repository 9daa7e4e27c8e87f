"""`action-heads setup` says in a line what is ready, and names what is wrong with its remedy."""

import sys

import pytest

pytest.importorskip("scipy")

from action_heads_lab.setup import command
from action_heads_lab.setup.archives import Archive, Source
from action_heads_lab.setup.command import SetupConfig, setup
from action_heads_lab.setup.trees import git_hash
from action_heads_lab.sim import libero_files, mimicgen
from test_archives import tarball, wheel

pytestmark = pytest.mark.sim
ASSETS = {f"{name}/a.xml": b"<a/>" for name in libero_files.FOLDERS}
CODE = {
    "mimicgen/__init__.py": b"",
    "mimicgen/envs/robosuite/a.py": b"",
    "mimicgen/models/robosuite/assets/a.xml": b"<a/>",
    "robosuite_task_zoo/__init__.py": b"",
}


def trees(files, folder) -> dict:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {path.name: (git_hash(path),) for path in folder.iterdir()}


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Return a folder with small archives of both benchmarks, in place of the real ones. hf-libero is installed."""
    if command.missing("sim"):
        pytest.skip("needs the sim extra")
    local = tmp_path / "archives"
    local.mkdir()
    (local / "assets.whl").write_bytes(wheel(ASSETS))
    (local / "code.tar.gz").write_bytes(tarball(CODE))
    for name, file, files in (("LIBERO", "assets.whl", ASSETS), ("MIMICGEN", "code.tar.gz", CODE)):
        archive = Archive(file, "http://127.0.0.1:9/", {"package/assets/": "", "repo-abc/": ""})
        monkeypatch.setattr(command.sources, name, (Source(f"a fake {name}", (archive,)),))
        monkeypatch.setattr(command.sources, f"{name}_TREES", trees(files, tmp_path / name))
    monkeypatch.setattr(command, "install", lambda requirement: pytest.fail(f"{requirement} was installed"))
    return local


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return an empty home, with a package like hf-libero's on the path."""
    for name in ("bddl_files", "init_files"):
        (tmp_path / "site/libero/libero" / name).mkdir(parents=True)
    (tmp_path / "site/libero/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    for name in ("mimicgen", "robosuite_task_zoo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(libero_files.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(libero_files, "sizes", lambda: {name: len(content) for name, content in ASSETS.items()})

    class Ours:
        def locate_file(self, name):
            return tmp_path / "site" / name

    monkeypatch.setattr(libero_files, "_installed", {"hf-libero": Ours()}.get)
    monkeypatch.delenv("LIBERO_CONFIG_PATH", raising=False)
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command.sysconfig, "get_path", lambda name: str(tmp_path / "site"))
    return tmp_path / "home"


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


def test_half_a_configuration_is_not_ready(benchmarks, home, capsys):
    (home / ".libero").mkdir(parents=True)
    (home / ".libero/config.yaml").touch()
    with pytest.raises(ValueError, match=r"no path for benchmark_root.*rm .*config\.yaml"):
        setup(SetupConfig("libero", source=benchmarks))
    assert "ready" not in capsys.readouterr().out


def test_without_a_network_the_remedy_is_named(benchmarks, home):
    for benchmark in ("libero", "mimicgen"):
        if benchmark == "mimicgen" and command.find_spec("mimicgen"):
            continue
        with pytest.raises(OSError, match=r"nothing could be downloaded.*--source"):
            setup(SetupConfig(benchmark))


def test_mimicgen_is_found_in_this_process_and_in_later_ones(benchmarks, home, capsys, monkeypatch, tmp_path):
    if command.find_spec("mimicgen"):
        pytest.skip("MimicGen is installed here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    setup(SetupConfig("mimicgen", source=benchmarks))
    assert capsys.readouterr().out.startswith("MimicGen is ready: ")
    mimicgen.check()
    assert (tmp_path / "site" / command.PTH).read_text() == f"{tmp_path}/cache/mimicgen\n"


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
