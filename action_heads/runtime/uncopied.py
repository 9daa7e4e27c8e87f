"""Objects that hold a thread or a connection."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn


class Uncopied:
    """An object that can be neither copied nor pickled, since a copy can't have its thread or its connection.

    Attributes:
        holds: what it holds.
        another: how to make another one.
    """

    holds: ClassVar[str] = "a thread"
    another: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds {self.holds}, so it can't be copied or pickled. Make another one with "
            f"{self.another}."
        )
