"""The paths that a user writes in a spec of a source, or in a file such as a column map."""

from __future__ import annotations

import os
from pathlib import Path


def path_of(text: str | Path, written_in: Path | None = None) -> Path:
    """Return the path that a text names. `~` is the home folder.

    A relative path begins at the working directory, or at the folder of the file that it is `written_in`, so that both
    files can move together.
    """
    path = Path(os.path.expanduser(text))  # Unlike Path.expanduser, it keeps the `~` of an unknown user.
    return path if written_in is None else written_in.parent / path


def path_from(path: Path, written_in: Path) -> str:
    """Return the text by which a file `written_in` names a path: relative only below its own folder."""
    path, folder = path.absolute(), written_in.absolute().parent
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def exists(text: str) -> bool:
    """Return whether there is a file or folder at the path that a text names, however odd the text is."""
    return os.path.exists(path_of(text))
