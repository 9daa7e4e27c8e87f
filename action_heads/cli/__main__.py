"""Run `action-heads` as `python -m action_heads.cli`."""

from action_heads.cli import main

main()
