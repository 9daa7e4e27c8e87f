"""The `action-heads` command: each sub-command is a configuration dataclass and the function that takes it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from action_heads import hub
from action_heads.extras import require


@dataclass(frozen=True)
class HeadsConfig:
    """List the heads that come with the package."""


def heads(config: HeadsConfig) -> None:
    """One line a bundled head."""
    from action_heads.head import ActionHead

    for name in hub.bundled():
        print(ActionHead.from_pretrained(name))


def main() -> None:
    """Entry point of `action-heads`."""
    try:
        tyro = require("tyro", "train")
    except ImportError as error:
        raise SystemExit(str(error)) from None
    from action_heads.adapt.run import adapt
    from action_heads.adapt.settings import AdaptConfig
    from action_heads.pretrain.evaluate import EvaluateConfig, evaluate
    from action_heads.pretrain.loop import pretrain
    from action_heads.pretrain.publish import PublishConfig, publish
    from action_heads.pretrain.settings import PretrainConfig
    from action_heads.reproduce.report import ReportConfig, report
    from action_heads.runtime.export import ExportConfig, export
    from action_heads.runtime.serve import ServeConfig, serve
    from action_heads.sim.dataset import RecordConfig, record_dataset
    from action_heads.sim.demo import DemoConfig, demo

    command = shlex.join(["action-heads", *sys.argv[1:]])
    run = {
        DemoConfig: lambda config: demo(config, command),
        AdaptConfig: lambda config: adapt(config, command),
        PretrainConfig: lambda config: pretrain(config, command),
        EvaluateConfig: lambda config: evaluate(config, command),
        PublishConfig: publish,
        RecordConfig: record_dataset,
        ReportConfig: report,
        ExportConfig: export,
        ServeConfig: serve,
        HeadsConfig: heads,
    }
    config = tyro.extras.subcommand_type_from_defaults(
        {
            "demo": DemoConfig(),
            "pretrain": PretrainConfig(),
            "adapt": AdaptConfig(),
            "evaluate-head": EvaluateConfig(head=tyro.MISSING),
            "publish": PublishConfig(folder=tyro.MISSING),
            "record": RecordConfig(task=tyro.MISSING, out=tyro.MISSING),
            "report": ReportConfig(results=tyro.MISSING),
            "export": ExportConfig(adapter=tyro.MISSING),
            "serve": ServeConfig(adapter=tyro.MISSING),
            "heads": HeadsConfig(),
        }
    )
    # What has no default, such as the head to evaluate, is given by its place.
    marks = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.PositionalRequiredArgs)
    with plain_errors():
        given = tyro.cli(config, prog="action-heads", config=marks)
        run[type(given)](given)


@contextmanager
def plain_errors() -> Iterator[None]:
    """End a command as a shell expects: with the message of an error alone, or quietly on Ctrl-C."""
    from action_heads.training.loop import Diverged

    try:
        yield
    except (OSError, ValueError, ImportError, Diverged) as error:  # ours say it all; a traceback would bury it
        if os.environ.get("ACTION_HEADS_TRACEBACK"):
            raise
        raise SystemExit(f"{error}\n(ACTION_HEADS_TRACEBACK=1 shows where this came from)") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
