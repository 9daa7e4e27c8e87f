"""`python -m action_heads.cli`: the same as `action-heads`."""

from action_heads.cli import main

main()
