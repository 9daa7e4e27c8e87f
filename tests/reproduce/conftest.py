"""Everything here needs the packages of the sim extra but no simulator; the one test that runs it is marked."""

from importlib.util import find_spec

import pytest

if any(find_spec(name) is None for name in ("scipy", "tqdm", "tyro", "matplotlib")):
    pytest.skip("needs the train extra", allow_module_level=True)
