"""Write docs/reference/cli.md: every command of `action-heads` with all of its flags, as `--help` shows them.

uv run docs/_site/cli_page.py
"""

from __future__ import annotations

from dataclasses import MISSING
from importlib import import_module
from pathlib import Path

from action_heads._util.extras import packages
from action_heads._util.flags import Shown, option
from action_heads._util.flat import Leaf, leaves
from action_heads.cli.command_line import described
from action_heads.cli.commands import known

PAGE = Path(__file__).resolve().parents[1] / "reference" / "cli.md"
HEAD = """# Command line

This page is written by `uv run docs/_site/cli_page.py` from the settings of each command.
`action-heads <command> --help` shows the same texts.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(section(name) for name in known())])


def section(name: str) -> str:
    """Return one command: what it does, what must be installed, and a table of its flags."""
    command = known()[name]
    module, _, kind = command.settings.partition(":")
    settings = getattr(import_module(module), kind)
    lines = [f"## `action-heads {name}`", "", command.about, ""]
    if command.extras:
        needed = packages(*command.extras)
        lines += [
            f"Needs at least `pip install {needed}` in a clone; [Install](../install.md) has what your data needs.",
            "",
        ]
    rows = [row(flat, leaf) for flat, leaf in leaves(settings).items()]
    if rows:
        lines += ["| flag | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def row(name: str, leaf: Leaf) -> str:
    """Return the table row of one flag."""
    shown = [part for part in getattr(leaf.hint(extras=True), "__metadata__", ()) if isinstance(part, Shown)]
    if leaf.default is MISSING:
        flag, default = name.upper(), "required"
    else:
        flag, default = option(name), shown[0].default.replace("<", "&lt;") if shown else default_text(leaf.default)
    meaning = described(leaf.kind).get(leaf.name, "").replace("|", "\\|").replace("<", "&lt;")
    return f"| `{flag}` | {default} | {meaning} |"


def default_text(value: object) -> str:
    """Return a default as one would type it."""
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
