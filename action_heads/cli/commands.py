"""The subcommands of `action-heads`: each is a settings dataclass and a function that takes it."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated

from action_heads._util.flags import Shown, check_choices
from action_heads.io import listing


@dataclass(frozen=True)
class HeadsConfig:
    """List the heads that come with the package, in the order that suits a purpose.

    Attributes:
        want: smallest, fastest, absolute, delta, mode, real-time or droid; by default all heads, by name.
    """

    want: Annotated[str, Shown("all heads", "WANT")] = ""

    def __post_init__(self):
        if self.want:
            check_choices(self, want=listing.WANTS)


def heads(config: HeadsConfig) -> None:
    """Print a table of the bundled heads, and name the page with the evidence for their order.

    A terminal gets aligned columns, a file or another program Markdown.
    """
    print((listing.aligned if sys.stdout.isatty() else listing.table)(config.want or None))
    if config.want:
        print(
            "\nBest first; of equal ones, the head that suits most tasks. "
            f"Evidence: {listing.WANTS[config.want].evidence}."
        )


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        about: the first line of the settings' docstring, which `action-heads --help` shows.
        settings, run: "module:name" of the dataclass and of the function.
        extras: extras that the command needs.
        recorded: whether `run` also gets the command line, to record it.
    """

    about: str
    settings: str = ""
    run: str = ""
    extras: tuple[str, ...] = ()
    recorded: bool = False


COMMANDS = {
    "pretrain": Command(
        "Stage 1: pretrain a head on motion alone, without observations.",
        settings="action_heads.pretrain.settings:PretrainConfig",
        run="action_heads.pretrain.loop:pretrain",
        extras=("train",),
        recorded=True,
    ),
    "adapt": Command(
        "Stage 2: train a policy on a frozen head, from a recording with images or states.",
        settings="action_heads.adapt.settings:AdaptConfig",
        run="action_heads.adapt.run:adapt",
        extras=("train",),
        recorded=True,
    ),
    "evaluate-head": Command(
        "Measure a head on held-out motion, and write evaluation.json, evaluation.md and evaluation.png.",
        settings="action_heads.pretrain.evaluate:EvaluateConfig",
        run="action_heads.pretrain.evaluate:evaluate",
        extras=("train",),
        recorded=True,
    ),
    "statistics": Command(
        "Write the statistics of a recording's motion, by which Stage 1 can shape synthetic motion.",
        settings="action_heads.pretrain.statistics:StatisticsConfig",
        run="action_heads.pretrain.statistics:statistics",
    ),
    "publish": Command(
        "Check a head, write its card, upload both in one commit, and verify the upload.",
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
        "List the heads that come with the package, in the order that suits a purpose.",
        settings="action_heads.cli.commands:HeadsConfig",
        run="action_heads.cli.commands:heads",
    ),
}

# Commands of the distribution action-heads-lab, which registers them. Without it, each says what to install.
LAB = {
    "demo": Command(
        "Record demonstrations, train adapters on a frozen head, roll out, and compare with controls.",
        extras=("train", "lab", "sim"),
        recorded=True,
    ),
    "record": Command(
        "Record demonstrations of a scripted expert as a LeRobotDataset, or as HDF5 of robomimic.",
        extras=("train", "lab", "sim"),
    ),
    "setup": Command(
        "Set a benchmark up: install and fetch what is missing, check it, and say what is ready.",
        extras=("train", "lab"),
    ),
    "report": Command(
        "Write tables and figures of a results folder, beside the numbers of the paper.", extras=("train", "lab")
    ),
}
GROUP = "action_heads.commands"  # group of entry points that name a `Command`


@cache
def known() -> dict[str, Command]:
    """Return the commands of this package and those that others registered, in the order of the help."""
    registered = {}
    for point in entry_points(group=GROUP):
        with suppress(ImportError):  # its distribution was removed, or lacks what it needs
            registered[point.name] = point.load()
    return LAB | registered | COMMANDS
