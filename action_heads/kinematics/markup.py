"""A bounded XML parser. Its elements know their file and line for messages, and entities are not expanded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from xml.parsers import expat

LARGEST = 16 * 2**20  # bytes of one file; the largest arms of MuJoCo's Menagerie have 100 kB
DEEPEST = 200  # depth of nested elements
MOST_FILES = 100  # files of a model
MOST = 100_000  # elements of a model, including its included files
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
ALIKE = 0.65  # similarity for difflib, low enough for one wrong letter in three
FARTHEST = 1e6  # bound of all numbers of an arm except joint limits
# For each tag: the children and attributes that the readers use or know.
Kinds = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


class Element:
    """An XML element with its attributes and children. Its errors begin with its file, line and tag."""

    def __init__(self, tag: str, attributes: dict[str, str], path: Path, line: int):
        self.tag, self.attributes, self.path, self.line = tag, attributes, path, line
        self.children: list[Element] = []

    def __str__(self) -> str:
        name = self.attributes.get("name")
        return f"<{_short(self.tag)}>" if name is None else f"<{_short(self.tag)} name={_short(name)!r}>"

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}, line {self.line}, {self}: {message}")

    def all(self, *tags: str) -> list[Element]:
        return [child for child in self.children if child.tag in tags]

    def one(self, tag: str) -> Element | None:
        """Return the child of that tag, or None. Raise a ValueError if there are several."""
        found = self.all(tag)
        if len(found) > 1:
            raise found[1].error(f"{self} has {len(found)} elements <{tag}>, expected one. Remove the others.")
        return found[0] if found else None

    def walk(self) -> Iterator[Element]:
        """Yield the element and all its descendants."""
        waiting: list[Element] = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += reversed(element.children)

    def check(self, kinds: Kinds, kind: str | None = None) -> None:
        """Raise a ValueError for misspelt names, and for names that belong elsewhere, since they would be ignored."""
        tags, attributes = kinds[kind or self.tag]
        for what, found, known, at in (
            ("element", {child.tag for child in self.children}, tags, 0),
            ("attribute", set(self.attributes), attributes, 1),
        ):
            for name in sorted(found - set(known)):
                if any(name in each[at] for each in kinds.values()):
                    raise self.error(f"the {what} {name!r} does not belong here. Move it or remove it.")
                if near := get_close_matches(name.lower(), known, 1, ALIKE):
                    raise self.error(f"the {what} {_short(name)!r} is unknown; did you mean {near[0]!r}?")

    def text(self, name: str) -> str:
        """Return a required attribute. Raise a ValueError if it is missing or empty."""
        value = self.attributes.get(name, "").strip()
        if not value:
            raise self.error(f"the attribute {name!r} is missing. Add it.")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.attributes.get(name, default)
        if value not in choices:
            raise self.error(f"{name}={_short(value)!r} is unknown; expected one of {', '.join(choices)}.")
        return value

    def numbers(self, name: str, counts: int | tuple[int, ...], largest: float = FARTHEST) -> list[float] | None:
        """Return the numbers of an attribute, or None if it is missing. Other counts or sizes raise a ValueError."""
        if name not in self.attributes:
            return None
        text, counts = self.attributes[name], (counts,) if isinstance(counts, int) else counts
        parts = text.split()
        if len(parts) not in counts or not all(NUMBER.fullmatch(part) for part in parts):
            expected = " or ".join(str(count) for count in counts)
            hint = " Expand the file with xacro first." if "${" in text else ""
            raise self.error(f"{name}={_short(text)!r} is not {expected} finite number(s).{hint}")
        values = [float(part) for part in parts]
        if any(abs(value) > largest for value in values):
            raise self.error(f"{name}={_short(text)!r} is out of range, at most {largest:g} is possible for an arm.")
        return values

    def number(self, name: str, default: float, largest: float = FARTHEST) -> float:
        values = self.numbers(name, 1, largest)
        return default if values is None else values[0]


class Document:
    """An XML file with its included files. They share the bounds and the digest of their bytes."""

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = path, kind
        self.elements, self.read_already = 0, set[Path]()
        self.digest = hashlib.sha256()
        self.root = self.parse(path)

    def parse(self, path: Path) -> Element:
        """Parse another file of this document and return its root."""
        self.read_already.add(path.resolve())
        if len(self.read_already) > MOST_FILES:
            raise ValueError(f"{self.path} includes more than {MOST_FILES} files. Join some of them.")
        try:
            size = path.stat().st_size
            if not path.is_file() or size > LARGEST:
                what = f"has {size} bytes" if path.is_file() else "is not a regular file"
                raise ValueError(f"{path} {what}; expected {self.kind} of at most {LARGEST // 2**20} MiB.")
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read as {self.kind}: {error.strerror or error}") from error
        self.digest.update(content)
        return self._tree(content, path)

    def _tree(self, content: bytes, path: Path) -> Element:
        parser, open_elements, roots = expat.ParserCreate(), [], []

        def start(tag: str, attributes: dict[str, str]) -> None:
            self.elements += 1
            element = Element(tag, attributes, path, parser.CurrentLineNumber)
            if self.elements > MOST or len(open_elements) >= DEEPEST:
                raise element.error(f"a file may have at most {MOST} elements, nested at most {DEEPEST} deep.")
            (open_elements[-1].children if open_elements else roots).append(element)
            open_elements.append(element)

        def end(_: str) -> None:
            open_elements.pop()

        def entity(*_: Any) -> None:
            raise ValueError(f"{path}, line {parser.CurrentLineNumber}: entities are not supported. Remove <!ENTITY>.")

        parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entity
        try:
            parser.Parse(content, True)
        except ValueError as error:
            raise error if str(path) in str(error) else self._malformed(path, error) from error
        except (expat.ExpatError, LookupError, TypeError) as error:  # The last two: encodings unknown to Python.
            raise self._malformed(path, error) from error
        return roots[0]

    def _malformed(self, path: Path, error: Exception) -> ValueError:
        return ValueError(f"{path} cannot be read as {self.kind}: it is not well-formed XML, {error}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
