"""The `action-heads` command: each subcommand is a settings dataclass and a function that takes it.

The modules of a subcommand are imported only when it runs, so that `action-heads --help` answers at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from textwrap import TextWrapper
from typing import Any

from action_heads import __version__
from action_heads._util import extras
from action_heads._util.names import nearest
from action_heads.cli.command_line import Mistake, check_installed, parse, plain_errors
from action_heads.cli.commands import known


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this process, or `arguments` (without the name of the program)."""
    with plain_errors():
        run(list(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> None:
    """Print the help or the version, or run the subcommand that the first argument names."""
    name, *rest = arguments or [""]
    if name in ("-h", "--help", "--version"):
        print(f"action-heads {__version__}" if name == "--version" else usage(), flush=True)
        raise SystemExit(0)
    commands = known()
    if name not in commands:
        wrong = f"unknown command {name!r}{nearest(name, [*commands, '--help', '--version'])}" if name else "no command"
        raise Mistake(f"{wrong}. The commands are {', '.join(commands)}. `action-heads --help` describes them")
    command = commands[name]
    try:
        check_installed(f"`action-heads {name}`", *command.extras)
    except Mistake as lacking:
        if {"-h", "--help"} & {*rest}:  # its settings cannot be imported
            print(f"usage: action-heads {name} [-h] [OPTIONS]\n\n{command.about}\n\n{lacking}")
            raise SystemExit(0) from None
        raise
    settings = parse(_found(command.settings), rest, prog=f"action-heads {name}")
    record = (shlex.join(["action-heads", *arguments]),) if command.recorded else ()
    _found(command.run)(settings, *record)


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def usage() -> str:
    """Return the text of `action-heads --help`."""
    width = max(map(len, known())) + 4
    rows = []
    for name, command in known().items():
        lacking = extras.missing(*command.extras)
        about = command.about + (
            f" Needs [{','.join(extras.reduced(*command.extras))}], not installed." if lacking else ""
        )
        rows += TextWrapper(100, f"  {name}".ljust(width), " " * width).wrap(about)
    return "\n".join(
        [
            "usage: action-heads [-h] [--version] COMMAND ...",
            "",
            "Pretrained, frozen action heads and the small trainable adapters that attach them to any encoder.",
            "",
            "commands:",
            *rows,
            "",
            "Run `action-heads COMMAND --help` for the options of a command.",
            "Set ACTION_HEADS_TRACEBACK=1 to see where an error came from.",
        ]
    )
