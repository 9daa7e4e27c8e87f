"""Errors about a file of another format: what its first bytes tell, and the remedy."""

from __future__ import annotations


def foreign(head: bytes) -> str | None:
    """Return what a file of a wrong format is, judged by its first bytes, with the remedy; None if unknown."""
    if head.startswith((b"\x80", b"PK")):
        return (
            "this is a PyTorch pickle. Only safetensors is read, because unpickling runs code. If you trust the file, "
            "convert it: safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
        )
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer without the weights: run `git lfs pull` in its repository"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page instead of the file: download the file by its raw link, or use the Hub id"
    return None


def ending(remedy: str | None, usual: str) -> str:
    """Return the end of an error: the given remedy as a sentence, or else the usual one."""
    return usual if remedy is None else f". {remedy}"
