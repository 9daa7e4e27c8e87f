"""`python -m action_heads`: the same as `action-heads`."""

from action_heads.cli import main

if __name__ == "__main__":
    main()
