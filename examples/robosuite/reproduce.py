"""Run the paper's comparison on eight robosuite tasks with scripted demonstrations, on states or images.

Nothing is downloaded.

uv run examples/robosuite/reproduce.py --task Lift --mode decoupled,normal,random-frozen --seeds 0
uv run examples/robosuite/reproduce.py --task Lift --observe images       # needs a GPU; for states a CPU is enough
uv run examples/robosuite/reproduce.py --all                 # the whole grid; --dry-run prints its cost
uv run examples/robosuite/reproduce.py --all --share 0/2     # and 1/2 in another process
"""

if __name__ == "__main__":
    from action_heads_lab.reproduce.command import main  # Imported here: simulation processes import this file too.

    main("robosuite")
