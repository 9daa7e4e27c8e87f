"""Random ways to damage a file, like those of a disk, a network, an editor or an attacker."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Files = dict[str, bytes]  # The files of a folder, by relative path.
RAW = "\ue000"  # Marks text that is written without quotes, for literals that Python's JSON cannot write.
SURROGATE = "\ue001"  # Stands for half of a surrogate pair.
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "U16", "U32", "U64", "F8_E4M3", "X7")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 16, 100, 1.5, -0.0, 1e-300, 1e308, 2**31, 2**53, 2**62, 2**63, -(2**63)),
    *(2**64, 10**25, "", "0", "1", "16", "film", "mlp", "nan", "../..", "/", "a/b", "\0", "x" * 3000, [], {}, [[]]),
    *([None], [1], [1, 2], [1.0, 2.0, 3.0], {"": 1}, {"a": {}}, [["position", 3]], RAW + "NaN", RAW + "-Infinity"),
    *(RAW + "1e999", RAW + "9" * 5000, RAW + "[" * 40 + "]" * 40, RAW + "[" * 3000 + "]" * 3000, SURROGATE),
    *(RAW + "[" * 200_000, RAW + '{"a":1,"a":2}', RAW + "01", RAW + "1.0e5", RAW + "\ufeff1"),
)


def mutate(rng: random.Random, files: Files, other: Files) -> tuple[str, Files]:
    """Apply one to three mutations to a folder's files. `other` is a valid folder of the same format."""
    done, files = [], dict(files)
    for _ in range(rng.choices((1, 2, 3), (8, 2, 1))[0]):
        how = rng.choice(ALL)
        name = rng.choice(sorted(files))
        if how in OF_JSON and not name.endswith(".json"):
            how = rng.choice(OF_TENSORS)
        elif how in OF_TENSORS and name.endswith(".json"):
            how = rng.choice(OF_JSON)
        done.append(f"{how.__name__} {name}")
        if how is swap:
            files[name] = other.get(name, b"")
        else:
            try:
                files[name] = how(rng, files[name])
            except Exception:
                files[name] = flip(rng, files[name])  # An earlier mutation has left nothing to parse.
    return ", ".join(done), files


# ── of any file ──────────────────────────────────────────────────────────────────────────────────────────────────


def flip(rng: random.Random, data: bytes) -> bytes:
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if data else 0):
        new[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
    return bytes(new)


def flip_early(rng: random.Random, data: bytes) -> bytes:
    """Flip a bit in the first kilobytes, where headers are."""
    return flip(rng, data[:2048]) + data[2048:]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 64))) + data[at:]


def remove(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 4, 64)) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = start + rng.choice((1, 16, 256))
    return data[:end] + data[start:end] + data[end:]


def blank(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((4, 64, 4096))
    return data[:start] + bytes([rng.choice((0, 255))]) * len(data[start : start + length]) + data[start + length :]


def foreign(rng: random.Random, data: bytes) -> bytes:
    kinds = (b"", b"\x80\x02}q\0.", b"PK\3\4", b"<html></html>", b"version https://git-lfs.github.com/spec/v1\n")
    return rng.choice((*kinds, b"{}", b"[]", b"null", b'"a"', b"3", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf" + data))


def swap(rng: random.Random, data: bytes) -> bytes:
    raise NotImplementedError  # `mutate` does this.


# ── of JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────


def change_json(rng: random.Random, data: bytes) -> bytes:
    return written(changed(rng, json.loads(data))).encode("utf-8", "surrogatepass")


def twice(rng: random.Random, data: bytes) -> bytes:
    """Return JSON with a duplicate key that has another value."""
    value = json.loads(data)
    key = rng.choice(sorted(value))
    again = f"{json.dumps(key)}: {written(rng.choice(VALUES))}"
    inner = written(value).strip()[1:-1]
    return ("{" + (f"{again}, {inner}" if rng.random() < 0.5 else f"{inner}, {again}") + "}").encode()


def changed(rng: random.Random, value: Any) -> Any:
    """Return a copy of parsed JSON with one change."""
    places = [(holder, key) for holder in holders(value) for key in keys(holder)]
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    old, how = holder[key], rng.random()
    if how < 0.45:
        holder[key] = rng.choice(VALUES)
    elif how < 0.65:
        holder[key] = near(rng, old)
    elif how < 0.75:
        del holder[key]
    elif how < 0.85 and isinstance(holder, dict):
        holder[rng.choice(("", "x", key + "s", key.upper(), "version", "__class__"))] = holder.pop(key)
    elif how < 0.92:
        there, at = rng.choice(places)
        holder[key], there[at] = there[at], old
        if contains(value, 0):  # The value was exchanged with one that contains it.
            holder[key] = None
    elif isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), rng.choice([*VALUES, old]))
    else:
        holder[rng.choice(("x", "name", "fingerprint", "training", "strict"))] = rng.choice(VALUES)
    return value


def near(rng: random.Random, old: Any) -> Any:
    """Return another value of the same type, or the same value with another type."""
    if isinstance(old, bool) or old is None:
        return rng.choice((not old, int(bool(old)), str(old).lower()))
    if isinstance(old, int):
        return rng.choice((old + 1, old - 1, -old, 2 * old, old * 10**6, float(old), str(old), [old]))
    if isinstance(old, float):
        return rng.choice((old * 1.0001, -old, str(old), [old], int(old) if abs(old) < 1e300 else 0))
    if isinstance(old, str):
        choices = (old + " ", old[:-1], old.upper(), old[::-1], [old], {old: 1}, list(old[:50]), None)
        return rng.choice(choices)
    if isinstance(old, list):
        return rng.choice((old[::-1], old[:-1], old + old, {str(i): x for i, x in enumerate(old)}, str(old)))
    return rng.choice((list(old), list(old.items()), {}, dict(sorted(old.items())[1:])))


def holders(value: Any) -> list[Any]:
    found, todo = [], [value]
    while todo:
        item = todo.pop()
        if isinstance(item, (dict, list)):
            found.append(item)
            todo += item.values() if isinstance(item, dict) else item
    return found


def keys(holder: Any) -> list[Any]:
    return sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))


def contains(value: Any, depth: int) -> bool:
    """Return whether a value is nested too deep, as one that contains itself is."""
    if depth > 60:
        return True
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(contains(item, depth + 1) for item in below)


def written(value: Any) -> str:
    """Return JSON text, with raw literals where they are marked."""
    raws: list[str] = []

    def prepared(item: Any) -> Any:
        if isinstance(item, str) and item.startswith(RAW):
            raws.append(item[1:])
            return f"{RAW}{len(raws) - 1}{RAW}"
        if isinstance(item, dict):
            return {str(prepared(k)): prepared(v) for k, v in item.items()}
        return [prepared(each) for each in item] if isinstance(item, list) else item

    text = json.dumps(prepared(value), ensure_ascii=False).replace(SURROGATE, "\\ud800")
    for i, raw in enumerate(raws):
        text = text.replace(f'"{RAW}{i}{RAW}"', raw)
    return text


# ── of safetensors ───────────────────────────────────────────────────────────────────────────────────────────────


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: Any, body: bytes, length: int | None = None) -> bytes:
    text = written(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def change_header(rng: random.Random, data: bytes) -> bytes:
    header, body = parts(data)
    return joined(changed(rng, header), body)


def lie_about_length(rng: random.Random, data: bytes) -> bytes:
    header, body = parts(data)
    return joined(header, body, rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(data), len(data) - 8)))


def change_metadata(rng: random.Random, data: bytes) -> bytes:
    """Change the JSON in the metadata of the header, if it has any."""
    header, body = parts(data)
    metadata = header.get("__metadata__", {})
    name = rng.choice([key for key, text in metadata.items() if text.startswith("{")])
    metadata[name] = written(changed(rng, json.loads(metadata[name])))
    return joined(header, body)


def change_dtype(rng: random.Random, data: bytes) -> bytes:
    """Change a dtype in the header, so that the same bytes become other numbers."""
    header, body = parts(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    header[name]["dtype"] = rng.choice(DTYPES)
    if rng.random() < 0.5:  # A dtype of the same size.
        same = {"F32": ("I32", "U32"), "I64": ("F64", "U64"), "BF16": ("F16", "I16"), "U8": ("I8", "BOOL")}
        old = parts(data)[0][name]["dtype"]
        header[name]["dtype"] = rng.choice(same.get(old, ("I32",)))
    return joined(header, body)


def change_shape(rng: random.Random, data: bytes) -> bytes:
    header, body = parts(data)
    shape = header[rng.choice([key for key in header if key != "__metadata__"])]["shape"]
    how = rng.randrange(4)
    if how == 0:
        shape.reverse()
    elif how == 1:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    elif how == 2:
        shape.append(rng.choice((0, 2, -1, 2**63, 2**64, 1.5)))
    elif shape:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2**62, 2**63, "3", None))
    return joined(header, body)


def exchange_tensors(rng: random.Random, data: bytes) -> bytes:
    """Exchange the names of two tensors, of one shape if possible."""
    header, body = parts(data)
    names = [key for key in header if key != "__metadata__"]
    one = rng.choice(names)
    alike = [key for key in names if key != one and header[key]["shape"] == header[one]["shape"]]
    other = rng.choice(alike or names)
    header[one], header[other] = header[other], header[one]
    return joined(header, body)


def overlap(rng: random.Random, data: bytes) -> bytes:
    header, body = parts(data)
    names = [key for key in header if key != "__metadata__"]
    header[rng.choice(names)]["data_offsets"] = list(header[rng.choice(names)]["data_offsets"])
    return joined(header, body)


def change_number(rng: random.Random, data: bytes) -> bytes:
    """Change one stored number as a float32: its last bit or sign, or to NaN, infinity or zero."""
    header, body = parts(data)
    at = 4 * rng.randrange(max(1, len(body) // 4))
    new = bytearray(body)
    how = rng.randrange(5)
    if how == 0:
        new[at] ^= 1
    elif how == 1 and at + 3 < len(new):
        new[at + 3] ^= 0x80
    else:
        new[at : at + 4] = struct.pack("<f", (float("nan"), float("inf"), 0.0)[how - 2])
    return joined(header, bytes(new[: len(body)]))


def recast(rng: random.Random, data: bytes) -> bytes:
    """Store tensors in another precision, like a tool that shrinks files."""
    import safetensors.torch
    import torch

    tensors, metadata = safetensors.torch.load(data), parts(data)[0].get("__metadata__")
    dtype = rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.float32))
    chosen = set(tensors) if rng.random() < 0.3 else {rng.choice(sorted(tensors))}
    return safetensors.torch.save({k: t.to(dtype) if k in chosen else t for k, t in tensors.items()}, metadata)


ANY: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(flip, flip, flip_early, cut, insert, remove, repeat, blank, foreign, swap),
)
OF_JSON = (change_json, change_json, change_json, change_json, change_json, twice)
OF_TENSORS = (
    *(change_header, change_header, change_metadata, change_metadata, lie_about_length, change_dtype, change_shape),
    *(exchange_tensors, overlap, change_number, change_number, recast),
)
ALL = (*ANY, *OF_JSON, *OF_TENSORS)
