"""Run the paper's comparison on eight tasks of MimicGen, `action_heads_lab.sim.mimicgen.TASKS`, on states or images.

If something is not installed, the command names it.

uv run examples/mimicgen/reproduce.py --task stack_d1 --mode decoupled,normal,random-frozen --seeds 0
"""

if __name__ == "__main__":
    from action_heads_lab.reproduce.command import main  # Imported here: simulation processes import this file too.

    main("mimicgen")
