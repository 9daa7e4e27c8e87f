"""Tests of the reproduction need the packages of the extra `sim`. The one test that runs a simulator is marked."""

from importlib.util import find_spec

import pytest

if any(find_spec(name) is None for name in ("scipy", "tqdm", "tyro", "matplotlib")):
    pytest.skip("needs the train extra", allow_module_level=True)
