"""Tests of nested settings: flat as flags, and readable from files that were written before they were nested."""

from __future__ import annotations

import ast
import dataclasses
import json
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


def test_a_run_with_a_later_setting_does_not_go_on_without_it(tmp_path):
    """Records leave a later setting out while it has its default, which differs from any other value all the same."""
    (tmp_path / "state").mkdir()
    for kind, name in ((one, name) for one in kinds() for name in one.LATER):
        beside = {"weights": "imagenet", "train_encoder": "frozen"} if name == "stride" else {}
        plain, given = (kind.from_flat(beside | more).outcome() for more in ({}, {name: other(kind, name)}))
        for ours, theirs in ((given, plain), (plain, given)):
            record = {"config": theirs, "precision": "fp32"}
            (tmp_path / "state" / checkpoint.BEGUN).write_text(json.dumps(record))
            checkpoint.refuse_others(theirs, tmp_path, kind.LATER)
            with pytest.raises(ValueError, match=rf"a run with other settings \({name}\)"):
                checkpoint.refuse_others(ours, tmp_path, kind.LATER)


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
