"""The `action-heads` command: each sub-command is a settings dataclass and the function that takes it.

What a sub-command needs is imported when it runs, so that the help of the whole is there at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from textwrap import TextWrapper
from typing import Any

from action_heads import __version__
from action_heads._util import extras
from action_heads._util.names import nearest
from action_heads.cli.command_line import Mistake, check_installed, parse, plain_errors
from action_heads.io import listing


@dataclass(frozen=True)
class HeadsConfig:
    """List the heads that come with the package."""


def heads(config: HeadsConfig) -> None:
    """Print a line for each bundled head, from its files alone."""
    for line in listing.lines():
        print(line)


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Attributes:
        about: the first line of its settings' docstring, for the help of the whole.
        settings, run: "module:name" of the dataclass and of the function.
        extras: without which it can't run.
        recorded: whether `run` is also given the command line, to write it down.
    """

    about: str
    settings: str = ""
    run: str = ""
    extras: tuple[str, ...] = ()
    recorded: bool = False


COMMANDS = {
    "pretrain": Command(
        "Stage 1: pretrain a head on motion alone, without a single observation.",
        settings="action_heads.pretrain.settings:PretrainConfig",
        run="action_heads.pretrain.loop:pretrain",
        extras=("train",),
        recorded=True,
    ),
    "adapt": Command(
        "Stage 2: teach a frozen head a task, from a recording with images or of states alone.",
        settings="action_heads.adapt.settings:AdaptConfig",
        run="action_heads.adapt.run:adapt",
        extras=("train",),
        recorded=True,
    ),
    "evaluate-head": Command(
        "Measure what a head knows of held-out motion: a table, evaluation.json, evaluation.md and evaluation.png.",
        settings="action_heads.pretrain.evaluate:EvaluateConfig",
        run="action_heads.pretrain.evaluate:evaluate",
        extras=("train",),
        recorded=True,
    ),
    "publish": Command(
        "Check a head, write its card, upload it in one commit, and load it back to see that it is the same.",
        settings="action_heads.pretrain.publish:PublishConfig",
        run="action_heads.pretrain.publish:publish",
    ),
    "export": Command(
        "Write a policy as one file: (noise, cond) -> chunk in robot units.",
        settings="action_heads.runtime.export:ExportConfig",
        run="action_heads.runtime.export:export",
    ),
    "serve": Command(
        "Serve a policy over a websocket.",
        settings="action_heads.runtime.serve:ServeConfig",
        run="action_heads.runtime.serve:serve",
        extras=("serve",),
    ),
    "heads": Command(
        "List the heads that come with the package.",
        settings="action_heads.cli:HeadsConfig",
        run="action_heads.cli:heads",
    ),
}

# Commands of the distribution action-heads-lab, which registers them. A core alone says in a line what to install.
LAB = {
    "demo": Command(
        "Record demonstrations, train adapters on a frozen head, roll out, compare with controls.",
        extras=("train", "lab", "sim"),
        recorded=True,
    ),
    "record": Command(
        "Record demonstrations of a scripted expert as a LeRobotDataset.", extras=("train", "lab", "sim", "lerobot")
    ),
    "report": Command(
        "Write tables and figures of a results folder, with the paper's figures beside ours.", extras=("train", "lab")
    ),
}
GROUP = "action_heads.commands"  # of entry points: each names a `Command`


@cache
def commands() -> dict[str, Command]:
    """Return the commands of this package and those that others registered, in the order of the help."""
    registered = {}
    for point in entry_points(group=GROUP):
        with suppress(ImportError):  # its distribution was removed, or lacks what it needs
            registered[point.name] = point.load()
    return LAB | registered | COMMANDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: the one of this process, or `arguments` without the program's name."""
    with plain_errors():
        run(list(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> None:
    """Print what was asked for, or run the sub-command that the first argument names."""
    name, *rest = arguments or [""]
    if name in ("-h", "--help", "--version"):
        print(f"action-heads {__version__}" if name == "--version" else usage(), flush=True)
        raise SystemExit(0)
    known = commands()
    if name not in known:
        wrong = f"unknown command {name!r}{nearest(name, [*known, '--help', '--version'])}" if name else "no command"
        raise Mistake(f"{wrong}. The commands are {', '.join(known)}; action-heads --help describes them")
    command = known[name]
    try:
        check_installed(f"`action-heads {name}`", *command.extras)
    except Mistake as lacking:
        if {"-h", "--help"} & {*rest}:  # its settings can't be imported
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
    """Return the help of the whole."""
    width = max(map(len, commands())) + 4
    rows = []
    for name, command in commands().items():
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
            "`action-heads COMMAND --help` describes a command and its options.",
        ]
    )
