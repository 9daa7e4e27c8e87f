"""Tests of model cards: credits of data, and results that are damaged."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small import tiny_config, tiny_head

from action_heads import ActionHead, ActionSpace
from action_heads.adapters import FiLM
from action_heads.card import adapter_card, credit, head_card

DROID = "lerobot:lerobot/droid_1.0.1"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("recorded:panda", "2.2 hours"),
        ("npz:panda_kinematics", "2.2 hours"),
        ("npz:panda_kinematics@0.5", "2.2 hours"),
        ("synthetic:panda@3", "minimum-jerk"),
        ("synthetic:panda?rate=15@.5", "no recording"),
        ("synthetic:/arms/six.urdf?tip=hand", "synthetic motion, no recording"),
        (DROID, "CC BY 4.0"),
        (f"{DROID}?bad=skip&short=skip@2", "CC BY 4.0"),
    ],
)
def test_known_sources_are_credited_whatever_their_weight_and_options(spec, says):
    assert says in credit(spec, {})


@pytest.mark.parametrize("spec", ["npz:mine.npz", "lerobot:me/droid_1.0.1", "npz:droid", "robomimic:panda_kinematics"])
def test_others_are_not(spec):
    assert credit(spec, {}) is None


def test_the_head_s_own_record_goes_first_with_or_without_options():
    for key in (f"{DROID}?bad=skip", DROID):
        assert credit(f"{DROID}?bad=skip", {"credits": {key: "ours"}}) == "ours"


def test_crediting_brings_no_reader_along():
    heavy = ("action_heads.data", "h5py", "pinocchio", "pyarrow", "tyro")
    code = (
        f"import sys; from action_heads.card import credit; assert credit({DROID!r}, {{}}); "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_card_explains_the_size_and_every_column():
    space = ActionSpace((("joint", 7), ("gripper", 1)), mode="delta")
    head = ActionHead(tiny_config(space=space, width=96))
    card = head_card(head, "me/mlp-0.3m-arm")
    assert "`0.3m`, stands for 0.3 million parameters" in card
    for wrong in ("me/mlp-1m-arm", "me/mlp-0.30m-arm", "me/mlp-30m-arm", "me/arm"):  # It has 312,200 parameters.
        assert "size in the" not in head_card(head, wrong)
    assert "changes from one time step to the next" in card
    assert "| 0 to 6 | joint angles | rad |\n| 7 | gripper | -1 open to +1 closed |" in card
    assert "size in the name" not in head_card(tiny_head())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("npz:/data/android_arm.npz", None),
        ("npz:/data/droid_arm.npz", None),
        ("lerobot:me/droid-like", None),
        ("synthetic:panda?tip=droid", None),
        ("lerobot:lerobot/droid_1.0.1?bad=skip", None),  # All of it: nothing is missing.
        ("synthetic:droid@2", "synthetic motion with DROID's published statistics"),
        ("npz:droid_4_episodes_train.npz", "real DROID episodes"),
    ],
)
def test_only_a_source_that_has_something_of_droid_brings_a_paragraph_on_it(source, says):
    def card(init):
        training = {"data": [source], "sources": [{"source": source, "share": 1.0}], "settings": {"init": init}}
        return head_card(ActionHead(tiny_config(training=training)))

    assert ("How much of DROID" in card(None)) == (says is not None)
    if says:
        assert f"100 % {says} (`{source}`)" in card(None)
        assert "of `dae/mlp-5m-fk`, which saw nothing of DROID." in card("dae/mlp-5m-fk")
        for unknown in ("dae/mlp-5m-droid", "me/mine"):
            assert f"of `{unknown}`. With" in card(unknown)


@pytest.mark.parametrize("sources", [7, {"tokens": 7, "state": 3}])
def test_the_condition_on_an_adapters_card_fits_the_adapter(sources):
    policy, names = tiny_head().attach(FiLM(sources)), {}
    (line,) = [line for line in adapter_card(policy, "me/stack").splitlines() if line.startswith("cond = ")]
    exec(f"import torch; {line}", names)
    assert policy.sample(names["cond"]).shape == (1, 16, 10)


@pytest.mark.parametrize("name", ["evaluation.json", "trial.json", "latency.json"])
@pytest.mark.parametrize("damage", ["", "[]", "3", "{", "{}", '{"rows": [{}]}', '{"results": 3}', "[" * 100_000])
def test_damaged_results_are_named(name, damage, tmp_path):
    """Results that cannot be shown raise an error that names the file."""
    head = tiny_head()
    text = damage
    if damage.startswith("{") and damage.endswith("}"):
        text = json.dumps(json.loads(damage) | {"fingerprint": head.fingerprint()})
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} is damaged .*Measure again, or remove it"):
        head_card(head, folder=tmp_path)
