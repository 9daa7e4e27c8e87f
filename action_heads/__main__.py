"""The command `python -m action_heads`, which is the same as `action-heads`."""

from action_heads.cli import main

if __name__ == "__main__":
    main()
