from dataclasses import asdict, fields, replace

import pytest
from action_heads_lab.reproduce.config import RECIPES, Run

OTHER = {
    "family": "libero",
    "task": "Stack",
    "observation": "image",
    "backbone": "mixer",
    "mode": "blind",
    "adapter": "adaln_zero",
    "through": "code",
    "relearn_step": False,
    "hidden": 64,
    "data": "robomimic:{task}.hdf5",
    "sampler": "ddpm",
    "assets": "official",
}
NAMES = ("head", "stage1", "signal")  # their effect is in the weights of the head


@pytest.mark.parametrize("name", [field.name for field in fields(Run) if field.name not in NAMES])
def test_whatever_decides_the_outcome_is_in_the_identity(name):
    run = Run()
    value = OTHER[name] if name in OTHER else 2 * getattr(run, name) + 1
    assert replace(run, **{name: value}).identity("h") != run.identity("h")


def test_a_head_is_known_by_its_weights_and_not_by_its_name():
    assert Run(head="paper", stage1=("recorded:panda",)).identity("h") == Run().identity("h")
    assert Run().identity("other weights") != Run().identity("h")


def test_round_trip():
    run = Run(mode="normal", stage1=("own",), hidden=3)
    assert Run.from_dict(asdict(run)) == run
    with pytest.raises(ValueError, match=r"lacks \['seed'\].*Run it again"):
        Run.from_dict({key: value for key, value in asdict(run).items() if key != "seed"})


def test_normal_training_has_one_spelling():
    assert Run(mode="normal", relearn_step=True).identity("h") == Run(mode="normal", relearn_step=False).identity("h")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "frozen"}, r"mode is 'frozen' .*; choose one of decoupled"),
        ({"backbone": "lstm"}, "choose one of"),
        ({"family": "rlbench"}, "robosuite, mimicgen, libero"),
        ({"episodes": 0}, "at least 1"),
    ],
)
def test_errors_teach(wrong, message):
    with pytest.raises(ValueError, match=message):
        Run(**wrong)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_change_nothing_but_the_adapter(recipe):
    assert set(RECIPES[recipe]) == {"adapter", "through", "relearn_step", "hidden", "lr"}
    replace(Run(seed=42, task="Stack"), **RECIPES[recipe])
