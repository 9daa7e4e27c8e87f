"""Commands of the lab, which `action-heads` finds by the entry points of this distribution."""

from __future__ import annotations

from dataclasses import replace

from action_heads.cli.commands import LAB

DEMO = replace(LAB["demo"], settings="action_heads_lab.sim.demo:DemoConfig", run="action_heads_lab.sim.demo:demo")
RECORD = replace(
    LAB["record"],
    settings="action_heads_lab.sim.dataset:RecordConfig",
    run="action_heads_lab.sim.dataset:record_dataset",
)
REPORT = replace(
    LAB["report"],
    settings="action_heads_lab.reproduce.report:ReportConfig",
    run="action_heads_lab.reproduce.report:report",
)
SETUP = replace(
    LAB["setup"], settings="action_heads_lab.setup.command:SetupConfig", run="action_heads_lab.setup.command:setup"
)
