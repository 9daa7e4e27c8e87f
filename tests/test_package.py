"""Tests of the imports, the command line and the names of extras."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import metadata, packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from action_heads import __version__
from action_heads._util.extras import CLONE, MODULES, missing, remedy, require

ROOT = Path(__file__).parent.parent
# Modules whose distribution has a different name.
DISTRIBUTIONS = {"tensorboardX": "tensorboardx", "action_heads_lab": "action-heads-lab"}

HEAVY = (
    "accelerate",
    "huggingface_hub",
    "lerobot",
    "matplotlib",
    "peft",
    "robosuite",
    "scipy",
    "torchvision",
    "transformers",
    "tyro",
)


def test_import_brings_no_extra():
    """Importing the package imports none of the optional packages."""
    modules = "sys, action_heads, action_heads.adapters, action_heads.adapt, action_heads.encoders, action_heads.vlm"
    code = f"import {modules}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_adapters_have_one_identity():
    """Adapters have one identity: the link `adapters` at the top of the repository is no package."""
    import action_heads.adapters

    assert action_heads.adapters.FiLM.__module__ == "action_heads.adapters.film"


def test_missing_extra_is_named():
    with pytest.raises(ImportError, match=r"pip install 'action-heads\[sim\]'"):
        require("no_such_simulator", "sim")


def test_every_name_of_the_package_is_there_and_unknown_ones_are_not():
    import action_heads

    for name in action_heads.__all__:
        assert getattr(action_heads, name) is not None
        assert name in dir(action_heads)
        assert "._" not in getattr(getattr(action_heads, name), "__module__", ""), "_util is not for users"
    assert action_heads.actions.normalize.Normalizer is action_heads.Normalizer, "modules are there without an import"
    with pytest.raises(AttributeError, match="no attribute 'ActionHeed'"):
        action_heads.ActionHeed  # noqa: B018
    with pytest.raises(ImportError):
        from action_heads import ActionHeed  # noqa: F401  # pyright: ignore


def requirements(text: str) -> set[str]:
    """Return the lower-case names of distributions in a list of requirements in pyproject.toml."""
    return {re.split(r"[\[<>=!;~ ]", entry)[0].lower() for entry in re.findall(r'"([^"]+)"', text)}


def declared() -> dict[str, set[str]]:
    """Return the distributions that each extra brings, also through other extras and distributions of the workspace."""

    def extras(file: str) -> dict[str, str]:
        part = (ROOT / file).read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
        return dict(re.findall(r"^(\w+) = \[(.*?)\]$", part.partition("\n[")[0], re.MULTILINE | re.DOTALL))

    def dependencies(file: str) -> str:
        return re.findall(r"^dependencies = (.*)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)[0]

    lists = {f"action-heads[{name}]": text for name, text in extras("pyproject.toml").items()}
    lists["action-heads-lab"] = dependencies("lab/pyproject.toml")
    lists |= {
        f"action-heads-lab[{name}]": text + lists["action-heads-lab"]
        for name, text in extras("lab/pyproject.toml").items()
    }
    lists["lerobot_policy_dae"] = dependencies("lerobot_policy_dae/pyproject.toml")

    def brought(name: str) -> set[str]:
        found = requirements(lists[name])
        for entry in re.findall(r'"([^"]+)"', lists[name]):
            found |= brought(entry) if (entry := re.split("[;=]", entry)[0].strip()) in lists else set()
        return found

    return {name: brought(f"action-heads[{name}]") for name in extras("pyproject.toml")}


def required() -> list[tuple[str, str, str]]:
    """Return (file, module, extra) for every call of `require` in the package."""
    found = []
    packages = ("action_heads", "lab/action_heads_lab", "lerobot_policy_dae/lerobot_policy_dae")
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                module, extra = (*node.args, *(word.value for word in node.keywords))
                names = [module.value] if isinstance(module, ast.Constant) else ["onnx", "onnxscript"]
                found += [(path.name, name, extra.value) for name in names]  # type: ignore[union-attr]
    return found


def test_every_extra_that_is_named_exists_and_brings_what_is_missing():
    extras = declared()
    assert len(required()) > 30
    for file, module, extra in required():
        assert extra in extras, f"{file} names the extra {extra!r}, which pyproject.toml does not have"
        top = module.partition(".")[0].replace("datasets", "lerobot")  # LeRobot brings it.
        assert DISTRIBUTIONS.get(top, top).lower() in extras[extra], f"{file}: {extra!r} does not bring {module}"
    for extra, modules in MODULES.items():
        for module in modules:
            assert DISTRIBUTIONS.get(module, module).lower() in extras[extra], f"{extra!r} does not bring {module}"
    assert MODULES.keys() == extras.keys()


def test_remedies_work_in_a_clone_and_from_pypi():
    for extra in MODULES:
        assert f"pip install 'action-heads[{extra}]'" in remedy(extra)
        assert CLONE.get(extra, f"pip install '.[{extra}]'") in remedy(extra)
    assert "pip install . './lab[sim]' ./lerobot_policy_dae" in remedy("train", "lab", "sim", "lerobot")
    assert "pip install '.[data]' ./lab" in remedy("train", "lab", "data")
    assert "\n" not in remedy("train", "sim", "lerobot")


def test_what_is_missing_is_found_without_importing_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert missing("train") == ["scipy"]
    assert missing() == []


def test_the_names_of_distributions_are_right():
    """The names of distributions are right, as far as they are installed here."""
    found = packages_distributions()
    for module, distribution in DISTRIBUTIONS.items():
        if find_spec(module) and module in found:
            assert distribution in [name.lower() for name in found[module]]


def test_types_are_shipped_and_the_project_has_addresses():
    assert (ROOT / "action_heads/py.typed").is_file()
    about = metadata("action-heads")
    addresses = dict(entry.split(", ") for entry in about.get_all("Project-URL") or ())
    assert {"Repository", "Issues", "Documentation", "Changelog"} <= addresses.keys()
    assert "Typing :: Typed" in (about.get_all("Classifier") or ())
    assert about["Version"] == __version__


@pytest.mark.parametrize("distribution", ["lab", "lerobot_policy_dae"])
def test_the_other_distributions_need_this_version(distribution):
    """They use modules that are not public, so a mixture of versions must not be installable."""
    about = (ROOT / distribution / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in about.splitlines()
    assert re.findall(r'^dependencies = \["action-heads\[\w+\]==([^"]+)"', about, re.MULTILINE) == [__version__]


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["pretrain", "--help"], ["adapt", "--help"]])
def test_help(arguments, monkeypatch, capsys):
    from action_heads import cli

    monkeypatch.setattr(sys, "argv", ["action-heads", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "usage: action-heads" in capsys.readouterr().out


def test_heads_lists_the_bundled(monkeypatch, capsys):
    from action_heads import cli

    monkeypatch.setattr(sys, "argv", ["action-heads", "heads"])
    cli.main()
    assert "dae/mlp-5m-fk" in capsys.readouterr().out
