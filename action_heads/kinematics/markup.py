"""XML as a tree of elements that know their file and line. Everything about it is bounded, and nothing is expanded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from xml.parsers import expat

LARGEST = 16 * 2**20  # bytes of one file; the largest arms of MuJoCo's Menagerie have 100 kB
DEEPEST = 200  # elements within each other
MOST_FILES = 100  # of a model
MOST = 100_000  # elements of a model, its included files among them
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
ALIKE = 0.65  # of difflib: one wrong letter of three
FARTHEST = 1e6  # no number of an arm is larger, but for the limits of a joint that has none
# What elements may hold that means something here, by their tags: children and attributes.
Kinds = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


class Element:
    """A tag with its attributes and children. Its errors begin with where it stands."""

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
        """Return the child of that tag; two of them would contradict each other."""
        found = self.all(tag)
        if len(found) > 1:
            raise found[1].error(f"{self} has {len(found)} elements <{tag}>; expected one: remove the others")
        return found[0] if found else None

    def walk(self) -> Iterator[Element]:
        """Return the element and all below it."""
        waiting: list[Element] = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += reversed(element.children)

    def check(self, kinds: Kinds, kind: str | None = None) -> None:
        """Refuse what would be passed over though it means something: misspelt, or read in another place alone."""
        tags, attributes = kinds[kind or self.tag]
        for what, found, known, at in (
            ("element", {child.tag for child in self.children}, tags, 0),
            ("attribute", set(self.attributes), attributes, 1),
        ):
            for name in sorted(found - set(known)):
                if any(name in each[at] for each in kinds.values()):
                    raise self.error(f"it has the {what} {name!r}, which does not belong there: move it or remove it")
                if near := get_close_matches(name.lower(), known, 1, ALIKE):
                    raise self.error(f"it has the {what} {_short(name)!r}, which is unknown; did you mean {near[0]!r}?")

    def text(self, name: str) -> str:
        """Return an attribute that must be there and say something."""
        value = self.attributes.get(name, "").strip()
        if not value:
            raise self.error(f"it has no {name!r}; give it one")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.attributes.get(name, default)
        if value not in choices:
            raise self.error(f"{name}={_short(value)!r} is unknown; expected one of {', '.join(choices)}")
        return value

    def numbers(self, name: str, counts: int | tuple[int, ...], largest: float = FARTHEST) -> list[float] | None:
        """Return the numbers of an attribute, so many of them, none larger; None where the attribute is not given."""
        if name not in self.attributes:
            return None
        text, counts = self.attributes[name], (counts,) if isinstance(counts, int) else counts
        parts = text.split()
        if len(parts) not in counts or not all(NUMBER.fullmatch(part) for part in parts):
            expected = " or ".join(str(count) for count in counts)
            hint = "; expand the file with xacro first" if "${" in text else ""
            raise self.error(f"{name}={_short(text)!r} is not {expected} finite number(s){hint}")
        values = [float(part) for part in parts]
        if any(abs(value) > largest for value in values):
            raise self.error(f"{name}={_short(text)!r} is beyond what an arm can have, {largest:g}: mend the number")
        return values

    def number(self, name: str, default: float, largest: float = FARTHEST) -> float:
        values = self.numbers(name, 1, largest)
        return default if values is None else values[0]


class Document:
    """An XML file and the files that it includes: read once, counted together, known by their bytes."""

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = path, kind
        self.elements, self.read_already = 0, set[Path]()
        self.digest = hashlib.sha256()
        self.root = self.parse(path)

    def parse(self, path: Path) -> Element:
        """Return the root of another file of this document."""
        self.read_already.add(path.resolve())
        if len(self.read_already) > MOST_FILES:
            raise ValueError(f"{self.path} includes more than {MOST_FILES} files; join some of them")
        try:
            size = path.stat().st_size
            if not path.is_file() or size > LARGEST:
                what = f"has {size} bytes" if path.is_file() else "is no regular file"
                raise ValueError(f"{path} {what}; expected {self.kind} of at most {LARGEST // 2**20} MiB")
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} could not be read as {self.kind}: {error.strerror or error}") from error
        self.digest.update(content)
        return self._tree(content, path)

    def _tree(self, content: bytes, path: Path) -> Element:
        parser, open_elements, roots = expat.ParserCreate(), [], []

        def start(tag: str, attributes: dict[str, str]) -> None:
            self.elements += 1
            element = Element(tag, attributes, path, parser.CurrentLineNumber)
            if self.elements > MOST or len(open_elements) >= DEEPEST:
                raise element.error(f"expected at most {MOST} elements, and at most {DEEPEST} within each other")
            (open_elements[-1].children if open_elements else roots).append(element)
            open_elements.append(element)

        def end(_: str) -> None:
            open_elements.pop()

        def entity(*_: Any) -> None:
            raise ValueError(f"{path}, line {parser.CurrentLineNumber}: entities are not read: remove the <!ENTITY>")

        parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entity
        try:
            parser.Parse(content, True)
        except ValueError as error:
            raise error if str(path) in str(error) else self._malformed(path, error) from error
        except (expat.ExpatError, LookupError, TypeError) as error:  # the last two: of encodings that Python lacks
            raise self._malformed(path, error) from error
        return roots[0]

    def _malformed(self, path: Path, error: Exception) -> ValueError:
        return ValueError(f"{path} could not be read as {self.kind}: it is not well-formed XML, {error}")


def exists(path: Path) -> bool:
    try:
        return "\0" not in str(path) and path.exists()
    except OSError:  # a name that no file can have
        return False


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
