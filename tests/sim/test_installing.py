"""The checks of MimicGen and LIBERO name what is missing, without either package."""

from importlib.machinery import ModuleSpec

import pytest
from action_heads_lab.sim import libero, make, mimicgen
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
        assert "git clone https://github.com/NVlabs/mimicgen" in str(error.value)


def test_libero_absent_or_a_strangers(tmp_path, monkeypatch):
    monkeypatch.setattr(libero, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install hf-libero"):
        make("libero_object/0")
    monkeypatch.setattr(libero, "find_spec", lambda name: package(tmp_path / "libero"))

    def absent(name):
        raise libero.PackageNotFoundError(name)

    monkeypatch.setattr(libero, "distribution", absent)
    with pytest.raises(ImportError, match="an unrelated package"):
        libero.install()


def test_libero_without_assets_and_the_question_of_its_first_import(tmp_path, monkeypatch):
    monkeypatch.setattr(libero, "find_spec", lambda name: package(tmp_path / "libero", "libero"))
    monkeypatch.setattr(libero, "distribution", lambda name: None)
    monkeypatch.setattr(libero.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "config"))
    with pytest.raises(FileNotFoundError, match="hf download lerobot/libero-assets"):
        libero.install()
    assert not (tmp_path / "config").exists()
    for name in libero.FOLDERS:
        (tmp_path / ".cache/libero/assets" / name).mkdir(parents=True)
    libero.install()
    text = (tmp_path / "config/config.yaml").read_text()
    assert f"init_states: {tmp_path}/libero/libero/init_files\n" in text
    (tmp_path / "config/config.yaml").write_text("a user's own")
    libero.install()
    assert (tmp_path / "config/config.yaml").read_text() == "a user's own"


def test_names_of_all_suites():
    assert get_task("libero_object/9").rollout_steps == 280
    assert get_task("stack_d1").name == "Stack_D1"
    with pytest.raises(ValueError, match=r"Lift.*stack_d1.*libero_object/0"):
        get_task("libero_object/10")
