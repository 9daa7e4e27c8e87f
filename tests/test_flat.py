"""Tests of nested settings: flat as flags, and readable from files that were written before they were nested."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from action_heads._util.flags import FlagError
from action_heads._util.flat import Settings, build, flat_names, leaves
from action_heads.adapt.settings import AdaptConfig
from action_heads.adapters import ADAPTERS, AdapterConfig
from action_heads.io import files
from action_heads.training import checkpoint

ROOT = Path(__file__).parent.parent
BEFORE = ROOT / "tests/data/settings"  # written by an earlier release
MOST = 25
# Other valid values by the name of a field, where its type alone does not suggest one.
OTHERS: dict[str, Any] = {
    **{"data": "robomimic:a.hdf5", "mode": "normal", "adapter": "film", "through": "code", "action_layout": "libero"},
    **{"encoder": "resnet50", "train_encoder": "frozen", "weights": "imagenet", "pool": "cls", "schedule": "constant"},
    **{"stride": 16},
    **{"levels": "beta", "precision": "fp32", "sampler": "ddpm", "cameras": ("top",), "state": ("a", "b[0:3]")},
    **{"gripper": (0.0, 1.0), "resize": (32, 32), "crop": (28, 28), "jitter": 0.2, "ema": 0.5, "held_out": 0.2},
    **{"arch": "mlp", "size": "1m", "action": "delta", "signal": "pose", "prediction": "epsilon", "width": 32},
    **{"vlm_cache": "off", "vlm_train": "lora", "vlm_layer": (3,), "vlm_select": "image", "vlm_template": "chat"},
    **{"vlm_dtype": "float32", "vlm_pool": "last", "vlm_prompt": "do {task}"},
    **{"mechanisms": ("film",), "task_boxes": 0.1, "credit": ("robomimic:a.hdf5=ours, CC0",)},
}
# The settings that can't be given without another one.
NEED = {
    "vlm": [name for name in leaves(AdaptConfig) if name.startswith("vlm_")],
    "weights": ["train_encoder", "stride"],
    "train_encoder": ["stride"],
}


def kinds() -> list[type[Settings]]:
    """Return every settings class that has parts."""
    found = []
    for module, name in (("adapt", "AdaptConfig"), ("pretrain", "PretrainConfig")):
        settings = pytest.importorskip(f"action_heads.{module}.settings")
        found.append(getattr(settings, name))
    return found


def other(kind: type[Settings], name: str) -> Any:
    """Return a valid value of a field other than its default."""
    default = leaves(kind)[name].default
    if name == "data" and isinstance(default, tuple):
        return (OTHERS["data"],)
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, (int, float)):
        return default * 2 or 1
    hint = str(leaves(kind)[name].hint())
    return Path("elsewhere") if "Path" in hint else 6 if "int" in hint else "something"


def test_no_dataclass_has_more_fields_than_one_can_oversee():
    large = {}
    for package in ("action_heads", "lab", "lerobot_policy_dae", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and "dataclass" in " ".join(map(ast.unparse, node.decorator_list)):
                    large[node.name] = sum(isinstance(line, ast.AnnAssign) for line in node.body)
    assert len(large) > 50
    assert {name: count for name, count in large.items() if count > MOST} == {}


def test_flat_names_are_unique_and_lead_to_every_field():
    for kind in kinds():
        parts = [field for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.default)]
        assert parts
        names = [flat for part in parts for flat in flat_names(part).values()]
        names += [field.name for field in dataclasses.fields(kind) if field not in parts]
        assert sorted(names) == sorted(leaves(kind)), "no name stands for two fields"


def test_all_values_go_to_a_file_and_back():
    for kind in kinds():
        config = kind.from_flat({name: other(kind, name) for name in leaves(kind)})
        saved = config.to_dict()
        assert saved.keys() == leaves(kind).keys()
        unchanged = [name for name, value in kind().to_dict().items() if saved[name] == value]
        assert unchanged == [], "each has another value than its default"
        assert kind.from_flat(saved) == config
        assert kind.from_flat(kind().to_dict()) == kind()


@pytest.mark.parametrize("name", ["adapt_run.json", "pretrain_run.json"])
def test_the_settings_of_a_run_that_began_before_mean_the_same(name):
    (kind,) = (kind for kind in kinds() if kind.__module__.split(".")[1] == name.split("_")[0])
    config = files.read_json(BEFORE / name)["config"]
    assert config.pop("processes") == 1
    assert kind.from_flat(config).outcome() == config
    since = {name for name in leaves(kind) if name.startswith("vlm")}
    assert set(config) == leaves(kind).keys() - {*kind.WEIGHTLESS, *kind.LATER} - since


def test_a_run_of_a_frozen_model_that_began_before_goes_on(tmp_path):
    """Files of older releases call the training of a frozen VLM "none"."""
    now = AdaptConfig.from_flat({"vlm": "org/vlm", "vlm_train": "none"})
    assert now == AdaptConfig.from_flat({"vlm": "org/vlm"})
    (tmp_path / "state").mkdir()
    before = {"config": now.outcome() | {"vlm_train": "none"}, "precision": "fp32"}
    (tmp_path / "state" / checkpoint.BEGUN).write_text(json.dumps(before))
    checkpoint.refuse_others(now.outcome(), tmp_path)
    with pytest.raises(FlagError, match=r"^--vlm-train is 'none'; choose one of frozen, lora, full"):
        build(AdaptConfig, {"vlm": "org/vlm", "vlm_train": "none"})
    with pytest.raises(ValueError, match=r"a run with other settings \(vlm_train\)"):
        checkpoint.refuse_others(now.outcome() | {"vlm_train": "lora"}, tmp_path)


@pytest.mark.parametrize("place", ["state/run.json", "config.json"])
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_a_run_or_a_result_is_refused_with_a_setting_less_or_more(kind, place, tmp_path):
    """`outcome` leaves some settings out while they have their defaults, so either side may lack them."""
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    values = {name: other(kind, name) for name in leaves(kind).keys() - {*kind.WEIGHTLESS}}
    left_out, same = set(), set()
    for name in values:
        rest = {key: value for key, value in values.items() if key != name and key not in NEED.get(name, ())}
        more, less = (kind.from_flat(given).outcome() for given in (values, rest))
        left_out |= more.keys() - less.keys()
        if more == less:
            same.add(name)
            continue
        for begun, now in ((more, less), (less, more)):
            config = {"config": begun, "precision": "fp32", "inputs": {}}
            path.write_text(json.dumps(config if "state" in place else {"training": {"settings": begun}}))
            checkpoint.refuse_others(begun, tmp_path)
            with pytest.raises(ValueError, match=rf"other settings \((\w+, )*{name}[,)]"):
                checkpoint.refuse_others(now, tmp_path)
    assert {*kind.LATER} <= left_out
    assert same <= {"vlm_cache"}, "a model that trains keeps no embeddings anyway"


def test_a_head_of_an_older_release_has_settings_that_no_longer_count(tmp_path):
    """The first heads recorded their name, and had no `levels`."""
    shutil.copy(ROOT / "action_heads/weights/mlp-5m-fk/config.json", tmp_path)
    theirs = files.read_json(tmp_path / "config.json")["training"]["settings"]
    assert {"name", "save_every"} <= theirs.keys()
    assert not checkpoint.WEIGHTLESS - {name for kind in kinds() for name in kind.WEIGHTLESS}
    checkpoint.refuse_others({key: theirs[key] for key in theirs.keys() - checkpoint.WEIGHTLESS}, tmp_path)


def test_a_setting_that_is_none_is_refused_with_the_nearest():
    for kind in kinds():
        with pytest.raises(ValueError, match=r"unknown setting 'seeed' \(did you mean 'seed'\?\); known are .*warmup"):
            kind.from_flat({"seeed": 1})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": -1.0}, "--lr must be positive, got -1.0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"ema": 1.0}, "--ema must be at least 0 and below 1, got 1.0"),
        ({"schedule": "cosin"}, "--schedule is 'cosin' (did you mean 'cosine'?); choose one of cosine, constant"),
        ({"save_every": 0}, "--save-every must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be 0 or more, got -1"),
    ],
)
def test_a_mistake_is_called_by_its_flag_in_a_part_or_not(wrong, message):
    for kind in kinds():
        with pytest.raises(FlagError) as error:
            kind.from_flat(wrong)
        assert str(error.value) == message
        with pytest.raises(FlagError) as error:
            build(kind, wrong, "--policy.{}".format)
        assert str(error.value) == f"--policy.{next(iter(wrong))} {message.split(' ', 1)[1]}"


def test_a_part_by_itself_calls_its_field_by_its_name():
    with pytest.raises(ValueError, match=r"^mechanism is 'flim' \(did you mean 'film'\?\); choose one of film, "):
        AdapterConfig("flim")
    with pytest.raises(ValueError, match=r"^unknown path 'walls'"):
        AdapterConfig("film", through="walls")


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("cond_dim", [7, {"tokens": 5, "state": 3}])
def test_every_adapter_is_made_of_its_settings(name, cond_dim):
    settings = AdapterConfig(name, hidden_dim=8, relearn_step=True, through="blocks", pool="attention")
    assert settings.make(cond_dim).config == dataclasses.replace(settings, cond_dim=cond_dim)
    with pytest.raises(ValueError, match="cond_dim must be a positive integer, got 0"):
        settings.make(0)
