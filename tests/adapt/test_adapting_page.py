"""The code of docs/guides/adapt.md that loads a policy runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from recorded import tiny

from action_heads._util.flat import leaves
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "adapt.md").read_text()


def test_loading_as_on_the_page(folder, vit):
    adapt(tiny(folder, encoder=vit))
    loading, ticking = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {
        "images": {"agentview": torch.rand(1, 2, 3, 16, 16)},
        "state": torch.rand(1, 2, 4),
    }
    exec(loading.replace("runs/lift", str(folder / "run")), names)
    assert names["chunk"].shape == (1, 16, 10)
    exec(ticking, names)
    assert names["action"].shape == (1, 10)


def test_every_flag_that_is_named_exists():
    named = set(re.findall(r"`--([a-z-]+)", PAGE)) | set(re.findall(r" --([a-z-]+) ", PAGE))
    known = {name.replace("_", "-") for name in leaves(AdaptConfig)}
    assert len(named & known) > 20
    assert named - known <= {"size", "demos"}, named - known
