"""The code of docs/guides/adapt.md that loads a policy runs."""

from __future__ import annotations

import re

import torch
from pages import DOCS, blocks
from recorded import tiny

from action_heads._util.flat import leaves
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig

PAGE = DOCS / "guides" / "adapt.md"


def test_loading_and_acting_as_on_the_page(folder, vit, capsys):
    adapt(tiny(folder, encoder=vit))
    loading, acting = blocks(PAGE)
    names = {}
    exec(loading.replace("runs/lift", str(folder / "run")), names)
    assert "agentview" in capsys.readouterr().out
    sent = []
    exec(acting.replace("executor = ", "send = sent.append\nexecutor = "), names | {"sent": sent})
    assert [action.shape for action in sent] == 80 * [(10,)]
    images = {"agentview": torch.rand(1, 2, 3, 16, 16)}
    assert names["policy"].sample(images, torch.rand(1, 2, 4)).shape == (1, 16, 10)


def test_every_flag_that_is_named_exists():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`--([a-z-]+)", text)) | set(re.findall(r" --([a-z-]+) ", text))
    known = {name.replace("_", "-") for name in leaves(AdaptConfig)}
    assert len(named & known) > 20
    assert named - known <= {"size", "demos"}, named - known
