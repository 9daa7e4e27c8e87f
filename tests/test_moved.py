"""Modules that moved are found under their old names, as the same objects, with a warning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from action_heads import _moved

OLD = [*sorted(_moved.MODULES), *_moved.PACKAGES, "action_heads.pretrain.sources.npz", "action_heads.lerobot.draws"]
# What must be installed for a moved module. `lerobot` alone says nothing: the folder of its tests has that name.
OPTIONAL = {"action_heads_lab": ("robosuite", "scipy", "tqdm"), "lerobot_policy_dae": ("lerobot_policy_dae",)}


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_is_the_moved_module(old):
    new = _moved.new_name(old)
    needed = OPTIONAL.get(new.partition(".")[0], ("accelerate", "h5py", "pyarrow", "tqdm"))
    if lacking := [module for module in needed if find_spec(module) is None]:
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
