"""Experiments of the paper: settings of runs, the loop over them, their results, and the report.

    uv run examples/robosuite/reproduce.py --all    # scripted demonstrations, states; runs on a CPU
    uv run action-heads report results/

See docs/guides/reproduce.md. `reproduce.run.perform` is one run from head to rollouts.
"""
