"""Git's hash of a file or folder, which tells whether it is that of a known commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 1 << 20  # bytes read at once


def git_hash(path: Path) -> str:
    """Return git's hash of a file, or of a folder whose files are not executable, as 40 hexadecimal digits.

    Names with a leading dot and `__pycache__` are left out, since tools leave such files behind.
    """
    return (_tree(path) if path.is_dir() else _blob(path)).hex()


def _tree(folder: Path) -> bytes:
    rows = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        is_folder = path.is_dir()
        mode, digest = ("40000", _tree(path)) if is_folder else ("100644", _blob(path))
        name = path.name.encode()
        rows.append((name + b"/" * is_folder, f"{mode} ".encode() + name + b"\0" + digest))  # git sorts folders so
    body = b"".join(row for _, row in sorted(rows))
    return hashlib.sha1(b"tree %d\0" % len(body) + body).digest()


def _blob(path: Path) -> bytes:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.digest()
