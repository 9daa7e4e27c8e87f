"""Settings composed of small dataclasses, whose fields have flat names on a command line and in files.

A field whose default is a dataclass is a part. The fields of a part keep their own names, or get those in the metadata
of the part, where None leaves a field out. Flat names are unique within a settings class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from action_heads._util.flags import called, option
from action_heads._util.names import nearest

# Words for values that changed: flat name, and in files of older releases the old word, with the new one.
OLD_WORDS = {"vlm_train": {"none": "frozen"}}

T = TypeVar("T")
S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Leaf:
    """The field that a flat name stands for: `name` of the dataclass `kind`, directly or in the part `part`."""

    kind: type
    name: str
    part: str | None
    default: Any  # The default value, or `dataclasses.MISSING`.

    def hint(self, extras: bool = False) -> Any:
        """Return the type of the field; with `extras`, keep `Annotated`."""
        return get_type_hints(self.kind, include_extras=extras)[self.name]


@lru_cache
def leaves(kind: type) -> Mapping[str, Leaf]:
    """Return all fields of a settings class, by their flat names."""
    found: dict[str, Leaf] = {}
    for item in fields(kind):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        for name, flat in flat_names(item).items():
            found[flat] = Leaf(type(default), name, item.name, getattr(default, name))
        if item.init and not is_dataclass(default):
            found[item.name] = Leaf(kind, item.name, None, default)
    return found


def flat_names(part: Field) -> dict[str, str]:
    """Return the flat names of the fields of a part, or {} for a field that is not a part."""
    names = fields(part.default) if is_dataclass(part.default) else ()  # type: ignore[arg-type]
    found = {item.name: part.metadata.get(item.name, item.name) for item in names}
    return {name: flat for name, flat in found.items() if flat}


def build(kind: type[T], values: Mapping[str, Any], spell: Callable[[str], str] = option) -> T:
    """Build settings from values by their flat names. An error names the flag of the wrong value."""
    known = leaves(kind)
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"unknown setting {unknown[0]!r}{nearest(unknown[0], known)}; known are {', '.join(known)}")
    given = {name: value for name, value in values.items() if known[name].part is None}
    for part in fields(kind):  # type: ignore[arg-type]
        flags = {name: spell(flat) for name, flat in flat_names(part).items()}
        changed = {name: values[flat] for name, flat in flat_names(part).items() if flat in values}
        if changed:
            with called(flags.__getitem__):
                given[part.name] = replace(part.default, **changed)  # type: ignore[arg-type]
    with called(spell):
        return kind(**given)


def in_new_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's values by their flat names, with the words of this release."""
    old = {name: words[values[name]] for name, words in OLD_WORDS.items() if values.get(name) in words}
    return {**values, **old}


class Settings:
    """A base class for settings with parts, which are stored in files as one flat object."""

    WEIGHTLESS: ClassVar[tuple[str, ...]] = ()  # Flat names of settings that do not affect the weights.
    # Flat names of newer settings, which files leave out while they have their defaults: older files mean these.
    LATER: ClassVar[tuple[str, ...]] = ()
    # Options that a user may expect and why there are none, for the command line.
    NO_OPTION: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def from_flat(cls: type[S], values: Mapping[str, Any]) -> S:
        """Build settings from a file's values by their flat names. JSON's lists become tuples, and strings paths."""

        def read(name: str, value: Any) -> Any:
            if isinstance(value, str) and name in leaves(cls):
                return Path(value) if Path in (kind := leaves(cls)[name].hint(), *get_args(kind)) else value
            return tuple(value) if isinstance(value, list) else value

        return build(cls, {name: read(name, value) for name, value in in_new_words(values).items()})

    def to_dict(self) -> dict[str, Any]:
        """Return all values by their flat names, ready for JSON."""
        of = {name: getattr(self, leaf.part) if leaf.part else self for name, leaf in leaves(type(self)).items()}
        values = {name: getattr(of[name], leaf.name) for name, leaf in leaves(type(self)).items()}
        return json.loads(json.dumps(values, default=str))

    def outcome(self) -> dict[str, Any]:
        """Return the settings that affect the weights, ready for JSON: all but `WEIGHTLESS`."""
        values, known = self.to_dict(), leaves(type(self))
        left_out = {*self.WEIGHTLESS, *(name for name in self.LATER if values[name] == known[name].default)}
        return {name: value for name, value in values.items() if name not in left_out}
