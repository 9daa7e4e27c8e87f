"""Recognise the content of a folder, so that an error can name the call that loads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of folder content.

    Attributes:
        name: a description for messages.
        files: the files that such a folder holds.
        call: the call that loads it, with {} for the folder.
        config: a test of its config.json, if the files alone do not identify it.
    """

    name: str
    files: tuple[str, ...]
    call: str
    config: Callable[[dict[str, Any]], bool] | None = None


# The order matters, since an adapted policy also holds an adapter.
KINDS = (
    Kind(
        "an adapted policy",
        ("policy.json", "encoder.safetensors"),
        "action_heads.ObservedPolicy.from_pretrained({})",
    ),
    Kind(
        "an adapter",
        ("adapter.safetensors",),
        "ConditionedHead.from_pretrained({}), or head.load_adapter({}) for a head that you have",
    ),
    Kind("a tap", ("tap.safetensors",), "action_heads.vlm.Tap.load({}, model)"),
    Kind("an adapter of PEFT", ("adapter_config.json",), "peft.PeftModel.from_pretrained(model, {})"),
    Kind(
        "an action head",
        ("config.json", "model.safetensors"),
        "ActionHead.from_pretrained({})",
        lambda config: "backbone" in config and "objective" in config,
    ),
    Kind(
        "a policy of LeRobot",
        ("config.json",),
        "LeRobot, with --policy.path={}",
        lambda config: "input_features" in config or ("type" in config and "output_features" in config),
    ),
    Kind(
        "a model of transformers",
        ("config.json",),
        "transformers.AutoModel.from_pretrained({})",
        lambda config: "model_type" in config or "architectures" in config,
    ),
)


MADE_BY = {
    "adapter": "needed is a saved adapter: a folder of policy.save_adapter(folder) or of `action-heads adapt`",
    "policy": "needed is a saved policy: a folder of `action-heads adapt`, or of its policy.save(folder)",
}


def wanted(files: Collection[str]) -> str:
    """Return what these files make up, for a message: a head, an adapter or a policy."""
    return "policy" if "policy.json" in files else "adapter" if "adapter.safetensors" in files else "head"


def kind_of(folder: Path) -> Kind | None:
    """Return the kind of content that a folder holds, or None."""
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError:
        return None
    config: Any = None
    if "config.json" in there:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            config = None
    for kind in KINDS:
        if there.issuperset(kind.files) and (not kind.config or (isinstance(config, dict) and kind.config(config))):
            return kind
    return None


def by_files(there: Collection[str]) -> Kind | None:
    """Return the kind that file names alone identify, or None."""
    return next((kind for kind in KINDS if not kind.config and set(kind.files) <= set(there)), None)


def remedy(folder: Path, wanted: Sequence[str]) -> str:
    """Return a sentence on the content of a folder without the wanted files; "" if it is not recognised."""
    if kind := kind_of(folder):
        return f" It is {kind.name}: use {read_by(kind, folder)}."
    try:
        inside = sorted(p.name for p in folder.iterdir() if all((p / file).is_file() for file in wanted))
    except OSError:
        return ""
    return f" Its folder {inside[0]!r} holds them: pass {os.fspath(folder / inside[0])!r}." if inside else ""


def read_by(kind: Kind, place: str | os.PathLike[str]) -> str:
    """Return the call that loads a folder or a Hub repository of a kind."""
    return kind.call.replace("{}", repr(os.fspath(place)))


def other_kind(folder: Path, wanted: Sequence[str]) -> str | None:
    """Return why a folder with the files of a head holds no head: LeRobot and transformers use the same names."""
    kind = kind_of(folder) if "model.safetensors" in wanted else None
    if kind is None or not kind.config or "model.safetensors" in kind.files:  # a head
        return None
    return f"{folder} does not hold an action head. It holds {kind.name}: use {read_by(kind, folder)}"


def refusal_of_path(name: str, only_the_hub: bool = False) -> str | None:
    """Return why a string of the form "a/b" is not taken for a Hub id, or None if it may be one.

    If a folder `a` exists, "a/b" is a path in it. Asking the Hub would load files of whoever owns the name `a` there.

    Args:
        name: the string.
        only_the_hub: the Hub is meant for certain, since a revision was given, for example.
    """
    owner, _, rest = name.partition("/")
    place = Path(name)
    if place.is_dir():
        return None
    if place.is_symlink() and not place.exists():
        return f"no folder {name!r}: it is a link to {os.readlink(place)}, which does not exist"
    if rest and place.is_file():
        return f"no folder {name!r}: it is a file; pass its folder, {os.fspath(place.parent)!r}"
    if owner in ("", ".", "..", "~"):
        return f"no folder {name!r}"
    if rest and Path(owner).is_dir() and not only_the_hub:
        beside = ", ".join(sorted(p.name for p in Path(owner).iterdir())[:8]) or "nothing"
        return (
            f"no folder {name!r}: {owner!r} is a local folder that holds {beside}. For the Hub repository of this "
            "name, pass revision='main'"
        )
    return None


def nothing_there(name: str) -> str:
    """Return why a name is neither a folder nor a bundled head."""
    why = f"no folder {name!r}" + ("" if Path(name).expanduser().is_absolute() else f" in {Path.cwd()}")
    if "\\" in name and os.sep == "/":
        why += f" (this system separates folders by /: {name.replace(chr(92), '/')!r})"
    return f"{why}, nor a bundled head"
