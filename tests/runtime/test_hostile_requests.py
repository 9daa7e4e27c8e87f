"""The server answers any bytes with a chunk, or with an error that says what was wrong."""

from __future__ import annotations

import copy
import random
import re

import pytest
import torch
from small import COND_DIM, tiny_head, trained_policy

from action_heads.adapters import AdaLNZero

pytest.importorskip("msgpack")

import msgpack
from answers import answer

from action_heads.runtime import wire
from action_heads.runtime.requests import TYPES


def packed(value: object) -> bytes:
    return msgpack.packb(value) or b""


HUGE = (2**31, 2**63 - 1, 2**64 - 1, -(2**63))
VALUES = [None, True, False, 0, -1, 1, 3, *HUGE, 0.5, float("nan"), float("inf"), 1e300, "", "ddim", "heun", "x" * 3000]
VALUES += [
    b"",
    b"abc",
    [],
    [1, 2],
    ["a"],
    {},
    {"parts": {}},
    {"parts": 3},
    {"parts": {"a": 1}},
    {"shape": [1]},
    [[[[]]]],
]
VALUES += [
    {"shape": [1, 7], "dtype": "float32"},
    {b"parts": {}},
    msgpack.Timestamp(1),
    {"parts": {"parts": {"parts": {}}}},
]
SHAPES = [[], [0, 7], [1, 7], [-1, 7], [2**40, 2**40], [1, 3, 7], [1] * 9, "17", ["1", 7], [1.0, 7], [True, 7], None, 7]
DTYPES = [*wire.DTYPES, "float64", "complex64", "object", "torch.float32", "<f4", "", None, 3, ["float32"]]


def tensor(rng: random.Random, shape: tuple[int, ...], dtype: str = "float32") -> dict:
    count = torch.Size(shape).numel() * torch.empty(0, dtype=wire.DTYPES[dtype]).element_size()
    return {"shape": list(shape), "dtype": dtype, "data": bytes(4 * [0] if count == 4 else rng.randbytes(count))}


def sound(rng: random.Random) -> dict:
    """Return a valid request, as msgpack's objects."""
    floats = wire.encode(torch.randn(2, 3, COND_DIM))
    left = wire.encode(torch.zeros(2, rng.randint(1, 16), 10))
    mask = wire.encode(torch.ones(2, 3, dtype=torch.bool))
    every = {"mask": mask, "previous": left, "steps": rng.randint(1, 3), "sampler": rng.choice(["ddim", "heun"])}
    every |= {"spacing": "trailing", "committed": rng.randint(0, 3), "start": rng.random(), "seed": rng.getrandbits(63)}
    every |= {"id": rng.randint(0, 9)}
    return {"cond": floats} | {name: every[name] for name in every if rng.random() < 0.4}


def mutated(rng: random.Random, request: dict) -> object:
    """Return the request with one to three faults, at any depth."""
    request = copy.deepcopy(request)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice([*TYPES, "cond", "unknown"])
        inner = request.get(name)
        how = rng.random()
        if how < 0.15:
            request.pop(name, None)
        elif isinstance(inner, dict) and isinstance(inner.get("data"), bytes) and how < 0.75:
            if how < 0.3:
                inner["shape"] = rng.choice(SHAPES)
            elif how < 0.4:
                inner["dtype"] = rng.choice(DTYPES)
            elif how < 0.5:
                inner["data"] = rng.choice([b"", inner["data"][:-1], inner["data"] + b"\0", "text", None, [1, 2]])
            elif how < 0.6:
                inner.pop(rng.choice(sorted(inner, key=str)))
            elif how < 0.7:
                request[name] = tensor(rng, rng.choice([(2, 3, COND_DIM), (2, 3)]))
            else:
                inner[rng.choice(["extra", "parts"])] = rng.choice(VALUES)
        elif how < 0.85:
            request[name] = rng.choice(VALUES)
        elif how < 0.9:
            request[name] = {"parts": {"a": request.get(name), "b": rng.choice(VALUES)}}
        elif how < 0.97:
            shape = tuple(rng.choice([1, 2, 3, COND_DIM, 10, 16]) for _ in range(rng.randint(0, 4)))
            request[name] = tensor(rng, shape, rng.choice(["float32", "float16", "bfloat16", "uint8", "int64"]))
        else:
            return rng.choice([[request], {"cond": [request]}, None, "cond", 3, [[[[[]]]]]])
    return request


def noisy(rng: random.Random, data: bytes) -> bytes | str:
    """Return the message with some bytes changed, cut or repeated."""
    raw = bytearray(data)
    how = rng.random()
    if how < 0.6:
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(min(len(raw), 200))] = rng.randrange(256)
    elif how < 0.8:
        raw = raw[: rng.randrange(len(raw))]
    elif how < 0.9:
        raw += raw[: rng.randrange(1, 9)]
    else:
        return rng.choice(["", "hello", "\x00", rng.randbytes(40), bytes([rng.randrange(0x90, 0xA0)]) * 5000])
    return bytes(raw)


@pytest.fixture(scope="module", params=["one source", "two sources"])
def served(request):
    policy = trained_policy(tiny_head("mixer"))
    return policy if request.param == "one source" else policy.head.attach(AdaLNZero({"a": COND_DIM, "b": 3}))


@pytest.mark.parametrize("seed", range(2))
def test_every_message_is_answered(served, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    chunks, errors = 0, set()
    for _ in range(500):
        request = sound(rng)
        data = packed(mutated(rng, request) if rng.random() < 0.7 else request)
        reply = answer(served, noisy(rng, data) if rng.random() < 0.3 else data, largest=40)
        back = wire.unpack(wire.pack(reply))  # the answer is a message itself
        if "error" in back:
            assert re.search(r"[a-z]{3}", back["error"]), reply
            assert "the server failed" not in back["error"], reply
            errors.add(re.sub(r"\d+|'[^']*'", "#", back["error"]))
        else:
            assert back["chunk"].shape[1:] == (16, 10)
            assert back["chunk"].isfinite().all()
            chunks += 1
    assert len(errors) > 30
    assert chunks > 20 or not isinstance(served.adapter.config.cond_dim, int)


@pytest.mark.parametrize("name", TYPES)
def test_a_wrong_type_is_named(served, name):
    """The error about a wrong type names the entry."""
    sources = served.adapter.config.cond_dim
    cond = torch.zeros(1, COND_DIM) if isinstance(sources, int) else {k: torch.zeros(1, n) for k, n in sources.items()}
    wrong = [b"abc", [1, 2]] + (
        [True, {"parts": {"a": True}}, float("nan")] if name not in ("cond", "mask") else [3, "x"]
    )
    for value in wrong:
        request = packed({"cond": {"parts": {}} if value is None else wire.encode(cond)} | {name: value})
        assert name in answer(served, request)["error"], value


def test_the_request_that_closed_the_connection(served):
    """The request {"cond": {"parts": {}}}, which once raised IndexError and closed the connection, gets an error."""
    assert "cond" in answer(served, packed({"cond": {"parts": {}}}))["error"]


@pytest.mark.parametrize(
    ("rows", "options"), [(65, {}), (50_000, {"steps": 100}), (34, {"sampler": "heun"}), (641, {"steps": 1})]
)
def test_a_request_that_asks_for_too_much_is_refused_before_it_is_computed(served, monkeypatch, rows, options):
    sources = served.adapter.config.cond_dim
    cond = torch.zeros(rows, 7) if isinstance(sources, int) else {k: torch.zeros(rows, n) for k, n in sources.items()}
    monkeypatch.setattr(served, "act", lambda *_: pytest.fail("computed"))
    said = answer(served, wire.pack({"cond": cond, **options}))["error"]
    assert re.search(f"a batch of {rows} with .* more than the 640 .* --largest", said)


def test_a_bomb_stays_small():
    """Small messages that would unpack to gigabytes, and deeply nested ones, are refused."""
    tree = packed({"cond": [[[[[1] * 60] * 60] * 60]] * 2})
    for data in (b"\x91" * 10**6, b"\xdd\x03\x93\x87\x00" + b"\xc0" * 6 * 10**7, tree, b"\x81\xa1a" * 10**5):
        with pytest.raises(wire.WireError, match=r"not msgpack, or not a message"):
            wire.unpack(data)
