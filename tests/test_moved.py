"""Tests that modules which moved are importable by their old names, as the same objects, with a warning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from action_heads import _moved

OLD = [*sorted(_moved.MODULES), *_moved.PACKAGES, "action_heads.pretrain.sources.npz", "action_heads.lerobot.draws"]
# The distribution that a moved module needs.
NEEDED = {
    "action_heads.data": ("accelerate", "h5py", "pyarrow"),
    "action_heads_lab": ("robosuite", "scipy", "tqdm"),
    "lerobot_policy_dae": ("lerobot_policy_dae",),
}


def is_installed(module: str) -> bool:
    """Return whether a distribution is installed; a folder of its name on the path does not count."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_is_the_moved_module(old):
    new = _moved.new_name(old)
    needed = next((modules for place, modules in NEEDED.items() if new.startswith(place)), ())
    if lacking := [module for module in needed if not is_installed(module)]:
        pytest.skip(f"needs {lacking}")
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} moved to {new}"):
        found = import_module(old)
    assert found is import_module(new)
    assert found.__name__ == new


def test_an_old_name_of_what_is_not_installed_says_what_to_install():
    gone = "sys.modules['action_heads_lab'] = sys.modules['action_heads_lab.sim'] = None"
    code = f"import sys; {gone}; import action_heads.sim"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: action_heads.sim moved to action_heads_lab.sim, which is not installed" in done.stderr
    assert "pip install 'action-heads[sim]'" in done.stderr


def test_other_names_are_left_alone():
    assert _moved.new_name("action_heads.head") is None
    assert _moved.new_name("action_heads.simple") is None
    with pytest.raises(ModuleNotFoundError):
        import_module("action_heads.no_such_module")


def test_the_folder_of_a_clone_is_not_the_package(tmp_path):
    (tmp_path / "lerobot_policy_dae").mkdir()
    paths = f"import sys; sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if 'lerobot_policy_dae' not in p]"
    gone = "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]"
    code = f"import action_heads; {paths}; {gone}; import action_heads.lerobot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "moved to lerobot_policy_dae, which is not installed" in done.stderr
