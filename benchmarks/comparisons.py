"""Sentences on which systems are better than others at p < 0.05, for the answers of pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LEVEL = 0.05
NAMES = {"blind": "decoupled, without images"}  # of modes, in tables
OTHERS = {"random-frozen": "random-frozen", "blind": "without images", "normal": "normal training"}  # in sentences


class Comparison(NamedTuple):
    """A test of two systems on one task or suite."""

    other: str  # the system that the first one is compared with
    where: str  # task or suite
    detail: str  # what follows in brackets: the p-value, or the number of demonstrations
    gain: float  # the rate of the first system minus that of the other
    p: float

    @property
    def is_apart(self) -> bool:
        return self.p < LEVEL


def told_apart(first: str, found: Iterable[Comparison]) -> str:
    """Return where a system is better or worse than each other one, and where no difference was found."""
    by_other: dict[str, list[Comparison]] = {}
    for each in found:
        by_other.setdefault(each.other, []).append(each)
    apart, alike = [], []
    for other, tests in by_other.items():
        for word, sign in (("better", 1), ("worse", -1)):
            if there := [each for each in tests if each.is_apart and sign * each.gain > 0]:
                apart.append(f"{word} than {other} on {places(there)}")
        if there := [each for each in tests if not each.is_apart]:
            alike.append(f"from {other} on {places(there)}")
    sentences = [f"{first} is {'; '.join(apart)}."] if apart else []
    if alike:
        sentences.append(f"{'It' if apart else first} was not found to differ {'; '.join(alike)}.")
    return " ".join(sentences)


def places(tests: Iterable[Comparison]) -> str:
    """Return the tasks or suites of tests as a list in a sentence, each once with its details in brackets."""
    details: dict[str, list[str]] = {}
    for each in tests:
        details.setdefault(each.where, []).append(each.detail)
    return listed([f"{where} ({', '.join(parts)})" for where, parts in details.items()])


def by_chance(tests: int) -> str:
    """Return how many of so many tests of equal systems are expected to find a difference."""
    return f"If all systems were equally good, about {LEVEL * tests:.1f} of these {tests} tests would have p < {LEVEL}."


def listed(values: Iterable[object]) -> str:
    """Return values as a list in a sentence: "0, 1 and 2"."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
