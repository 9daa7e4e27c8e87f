"""The values in a file are bounded, and every fault is refused at once with an error that names the file."""

from __future__ import annotations

import dataclasses
import json
import struct
import time

import pytest
import torch
from small import tiny_config, tiny_head

from action_heads import ActionHead, ActionSpace, HeadConfig, ObjectiveConfig, golden
from action_heads._util import limits
from action_heads.adapters.base import AdapterConfig
from action_heads.encoders import ObservationConfig, TextConfig, VisionConfig
from action_heads.io.files import WeightFileError, load_tensors, parse_json, read_json, save_tensors
from action_heads.io.weights import check_layout

DEEP = "[" * 200_000
HUGE = 10**25


@pytest.mark.parametrize(
    "make",
    [
        lambda: HeadConfig(mechanisms=([],)),  # type: ignore[arg-type]
        lambda: HeadConfig(mechanisms=("film", "film")),
        lambda: HeadConfig(mechanisms=5),  # type: ignore[arg-type]
        lambda: HeadConfig(backbone=["mlp"]),  # type: ignore[arg-type]
        lambda: HeadConfig(horizon=2**31),
        lambda: HeadConfig(horizon=2**64),
        lambda: HeadConfig(depth=HUGE),
        lambda: HeadConfig(width=16_000, depth=1000),  # Each value is allowed, but together they take terabytes.
        lambda: HeadConfig(backbone="unet", width=8, depth=13, horizon=4096),
        lambda: HeadConfig(horizon=4096, width=4096, space=ActionSpace((("joint", 4000),))),
        lambda: HeadConfig(name="\ud800"),
        lambda: ObjectiveConfig(train_steps=HUGE),
        lambda: ObjectiveConfig(train_steps=True),
        lambda: ObjectiveConfig(clip=float("nan")),
        lambda: ObjectiveConfig(clip=float("inf")),
        lambda: ObjectiveConfig(clip="1"),  # type: ignore[arg-type]
        lambda: ObjectiveConfig(prediction={}),  # type: ignore[arg-type]
        lambda: ActionSpace(0),  # type: ignore[arg-type]
        lambda: ActionSpace((None,)),  # type: ignore[arg-type]
        lambda: ActionSpace(("position",)),  # type: ignore[arg-type]
        lambda: ActionSpace((("joint", True),)),
        lambda: ActionSpace((("joint", HUGE),)),
        lambda: ActionSpace((([], 3),)),  # type: ignore[arg-type]
        lambda: ActionSpace((("gripper", 1),) * 10_000),
        lambda: ActionSpace((("gripper", 1),), mode=[]),  # type: ignore[arg-type]
        lambda: ActionSpace((("gripper", 1),), frame=None),  # type: ignore[arg-type]
        lambda: ActionSpace((("gripper", 1),), version=True),
        lambda: AdapterConfig("film", 2**40),
        lambda: AdapterConfig("film", {1: 2}),  # type: ignore[dict-item]
        lambda: AdapterConfig("film", {"a": 1, 2: 2}),  # type: ignore[dict-item]
        lambda: AdapterConfig("film", 2**17, hidden_dim=2**14),
        lambda: AdapterConfig("film", {f"s{i}": 1 for i in range(1000)}),
        lambda: AdapterConfig("film", 7, pool=[]),  # type: ignore[arg-type]
        lambda: AdapterConfig("film", 7, through=[]),  # type: ignore[arg-type]
        lambda: AdapterConfig([], 7),  # type: ignore[arg-type]
        lambda: AdapterConfig("film", 7, relearn_step=1),  # type: ignore[arg-type]
        lambda: VisionConfig(features=2**40),
        lambda: VisionConfig(backbone=3),  # type: ignore[arg-type]
        lambda: VisionConfig(crop=(2**40, 1)),
        lambda: VisionConfig(jitter="0.1"),  # type: ignore[arg-type]
        lambda: VisionConfig(pool=[]),  # type: ignore[arg-type]
        lambda: TextConfig(model=None),  # type: ignore[arg-type]
        lambda: TextConfig(features=2**40),
        lambda: ObservationConfig(cameras=([],)),  # type: ignore[arg-type]
        lambda: ObservationConfig(state_dim=2**40),
        lambda: ObservationConfig(state_dim=3, observation_steps=2**40),
        lambda: ObservationConfig(state_dim=3, vision={}),  # type: ignore[arg-type]
        lambda: ObservationConfig.from_dict([]),  # type: ignore[arg-type]
        lambda: HeadConfig.from_dict(HeadConfig().to_dict() | {"version": [2]}),
        lambda: ActionSpace.from_dict([1]),  # type: ignore[arg-type]
    ],
)
def test_a_configuration_is_refused_before_anything_is_made_of_it(make):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\w") as caught:
        make()
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "change",
    [
        {"mechanisms": [[]]},
        {"horizon": 2**31},
        {"depth": HUGE},
        {"width": 16_000, "depth": 100_000},
        {"objective": {"prediction": "x0", "train_steps": HUGE, "clip": 1.0}},
        {"objective": {"prediction": "x0", "train_steps": 100, "clip": "1"}},
        {"space": {"parts": 0, "mode": "absolute", "frame": "", "version": 1}},
        {"space": {"parts": [None], "mode": "absolute", "frame": "", "version": 1}},
        {"coded": 1},
        {"training": []},
        DEEP,
        "[]",
        '{"version": 2, "version": 2}',
    ],
)
def test_a_head_of_a_bad_config_is_refused_at_once(change, tmp_path):
    tiny_head().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(change if isinstance(change, str) else json.dumps(config | change))
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\w"):
        ActionHead.from_pretrained(tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DEEP, "thousands of levels deep"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels deep"),
        ('{"a": ' * 100 + "1" + "}" * 100, "nested more than 64 levels deep"),
        ("9" * 5000, "an integer of 5000 digits"),
        ("-" + "9" * 25, "an integer of 25 digits"),
        ('{"a": 1, "a": 1}', "an object has the key 'a' twice"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[1e999]", "1e999 is too large for a float"),
        (r'["\ud800"]', "half of a surrogate pair"),
        (r'{"\udfff": 1}', "half of a surrogate pair"),
        ("", "the file is empty"),
        ("{", "line 1, column 2"),
    ],
)
def test_json_is_strict(text, says, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_json_allows_is_read(tmp_path):
    value = {"é": [1, -2.5, 1e-300, None, True, "\U0001f916", {}], "b": 2**63}
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())
    assert read_json(tmp_path / "a.json") == value == parse_json(json.dumps(value, ensure_ascii=False), "it")


def header(tmp_path, text: str, body: bytes = b"", length: int | None = None):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text.encode() + body)
    return path


@pytest.mark.parametrize(
    ("text", "body", "length"),
    [
        ("{}", b"", 2**63),
        ("{}", b"", 2**40),
        ('{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}', b"", None),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"12345678", None),
        ('{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', b"1234", None),
        ('{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', b"12345678", None),
        ('{"__metadata__":{"action_heads":"' + "[" * 5000 + '"}}', b"", None),
        ('{"__metadata__":{"action_heads":"{\\"a\\":1,\\"a\\":2}"}}', b"", None),
    ],
)
def test_a_header_that_lies_is_refused(text, body, length, tmp_path):
    with pytest.raises(WeightFileError, match=r"model\.safetensors"):
        load_tensors(header(tmp_path, text, body, length))


def test_a_layout_is_checked_without_memory():
    config = tiny_config(width=2048, depth=20)  # It would take gigabytes if it were built.
    layout = config.layout()
    assert all(tensor.is_meta for tensor in layout.values())
    with pytest.raises(WeightFileError, match="lacks backbone"):
        check_layout({}, layout, "a file")  # type: ignore[arg-type]


@pytest.mark.parametrize("backbone", ["mlp", "mixer", "transformer", "unet"])
def test_the_layout_of_a_config_is_that_of_its_head(backbone):
    config = dataclasses.replace(tiny_config(backbone), depth=2)
    head, layout = ActionHead(config).state_dict(), config.layout()
    assert {k: (t.shape, t.dtype) for k, t in head.items()} == {k: (t.shape, t.dtype) for k, t in layout.items()}
    shown = sum(t.numel() for t in head.values())
    assert config.about() < 20 * shown  # No sensible configuration is refused.


def test_the_largest_known_heads_are_within_bounds():
    for changes in ({"backbone": "unet", "width": 512, "depth": 3, "expansion": 4}, {"width": 2048, "depth": 12}):
        assert HeadConfig(**changes).about() < limits.PARAMETERS


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_other_kinds_of_numbers_are_refused(dtype, tmp_path):
    head = tiny_head()
    head.save_pretrained(tmp_path)
    tensors, metadata = load_tensors(tmp_path / "model.safetensors")
    name = "backbone.norm.weight"  # All ones, which every dtype can represent.
    save_tensors(tensors | {name: tensors[name].to(dtype)}, tmp_path / "model.safetensors", metadata)
    with pytest.raises(WeightFileError, match=rf"{name} of dtype {dtype}"):
        ActionHead.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {k: v for k, v in t.items() if k != "noise"},
        lambda t: {"noise": t["noise"]},
        lambda t: t | {"noise": t["noise"][:, :3]},
        lambda t: t | {"film": torch.full_like(t["film"], float("nan"))},
        lambda t: t | {"film": t["film"].long()},
        lambda t: t | {"more": t["film"]},
    ],
)
def test_golden_files_are_checked(change, tmp_path):
    head = tiny_head()
    golden.save(head, tmp_path)
    assert golden.largest_difference(head, tmp_path) == 0
    save_tensors(change(load_tensors(tmp_path / golden.NAME)[0]), tmp_path / golden.NAME)
    with pytest.raises(WeightFileError, match=r"golden\.safetensors"):
        golden.largest_difference(head, tmp_path)
