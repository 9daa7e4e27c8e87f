"""Run the paper's comparison on LIBERO-Object, -Spatial, -Goal and -10, on states or images.

One policy learns the ten tasks of a suite, and is rolled out 50 times on each from the suite's init states.

uv run examples/libero/reproduce.py --task libero_object --mode decoupled,normal,random-frozen --seeds 0
"""

if __name__ == "__main__":
    from action_heads_lab.reproduce.command import main  # Imported here: simulation processes import this file too.

    main("libero")
