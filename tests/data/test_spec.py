"""The one-line form of sources."""

from __future__ import annotations

import pytest

from action_heads.data import Spec


@pytest.mark.parametrize(
    ("text", "kind", "where", "options", "weight"),
    [
        ("synthetic:panda", "synthetic", "panda", {}, 1.0),
        ("synthetic:panda@3", "synthetic", "panda", {}, 3.0),
        ("synthetic:/a b/ur5e.urdf?tip=tool0@0.5", "synthetic", "/a b/ur5e.urdf", {"tip": "tool0"}, 0.5),
        ("lerobot:lerobot/droid_1.0.1@2", "lerobot", "lerobot/droid_1.0.1", {}, 2.0),
        ("lerobot:a/b?schema=droid&short=skip", "lerobot", "a/b", {"schema": "droid", "short": "skip"}, 1.0),
        ("npz:C:/data@home/x.npz", "npz", "C:/data@home/x.npz", {}, 1.0),
        ("robomimic:a.hdf5?base=-0.5,0,0.9", "robomimic", "a.hdf5", {"base": "-0.5,0,0.9"}, 1.0),
    ],
)
def test_parses_and_prints_itself(text, kind, where, options, weight):
    spec = Spec.parse(text)
    assert spec == Spec(kind, where, options, weight)
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("droid", "unknown data source 'droid'; choose from synthetic:panda"),
        ("hdf5:x", "choose from"),
        ("lerobot:", "choose from"),
        ("synthetic:panda@0", "weight 0"),
        ("synthetic:six.urdf@2?tip=hand", "the weight must come last"),
        ("synthetic:panda?schema=droid", r"'schema=droid' is not an option of synthetic; its options are tip"),
        ("npz:x?short", "'short' is not an option of npz"),
        ("npz:x?short=drop", "short must be error or skip, but is 'drop'"),
        ("recorded:panda?rate=3", "its options are none"),
    ],
)
def test_errors_teach(text, problem):
    with pytest.raises(ValueError, match=problem):
        Spec.parse(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("me/demos", "lerobot:me/demos"),
        ("me/demos?revision=v3.0", r"lerobot:me/demos\?revision=v3.0"),
        ("data/lift.hdf5", "robomimic:data/lift.hdf5"),
        ("arms/ur5e.urdf", "synthetic:arms/ur5e.urdf"),
        ("robmimic:lift.hdf5", "robomimic"),
    ],
)
def test_a_forgotten_kind_is_suggested(text, meant):
    with pytest.raises(
        ValueError, match=rf"unknown data source .* \(did you mean '{meant}'\?\); choose from synthetic"
    ):
        Spec.parse(text)


def test_only_kinds_that_can_be_read_are_offered():
    with pytest.raises(ValueError, match=r"'a/b.npz'; choose from lerobot:REPO_OR_FOLDER or robomimic:FILE.hdf5\.$"):
        Spec.parse("a/b.npz", ("lerobot", "robomimic"))


@pytest.mark.parametrize("value", ["fast", "0", "-3"])
def test_numbers(value):
    with pytest.raises(ValueError, match=f"rate must be a positive number of at most 10000, but is '{value}'"):
        Spec.parse(f"synthetic:panda?rate={value}").number("rate", 15)


def test_what_is_given_twice_or_without_bounds_is_refused():
    with pytest.raises(ValueError, match="rate is given twice"):
        Spec.parse("npz:a.npz?rate=15&rate=20")
    with pytest.raises(ValueError, match="an infinite weight"):
        Spec.parse("synthetic:panda@" + "9" * 400)
    for value in ("inf", "nan", "1e9"):
        with pytest.raises(ValueError, match=rf"rate must be a positive number of at most 10000, but is '{value}'"):
            Spec.parse(f"synthetic:panda?rate={value}").number("rate", 15)
    assert Spec.parse("synthetic:panda").number("rate", 15.5) == 15.5


def test_a_name_that_ends_like_a_weight_is_one_if_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Spec.parse("lerobot:pick@2") == Spec("lerobot", "pick", {}, 2.0)
    for name in ("pick", "pick@2"):
        (tmp_path / name).mkdir()
    specs = {
        "lerobot:pick@2": Spec("lerobot", "pick@2"),
        "lerobot:pick@2@3": Spec("lerobot", "pick@2", {}, 3.0),
        "lerobot:pick@2?bad=skip": Spec("lerobot", "pick@2", {"bad": "skip"}),
        "lerobot:pick@2?bad=skip@0.5": Spec("lerobot", "pick@2", {"bad": "skip"}, 0.5),
        "lerobot:pick@3": Spec("lerobot", "pick", {}, 3.0),
    }
    for text, spec in specs.items():
        assert Spec.parse(text) == spec
    monkeypatch.chdir("/")  # What a spec prints means the same where the folder is not there.
    for spec in specs.values():
        assert Spec.parse(str(spec)) == spec
