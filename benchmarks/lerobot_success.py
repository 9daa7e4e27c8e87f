"""Compare the success of `--policy.type=dae` and of LeRobot's own `diffusion` policy at full size, on the same images.

    uv run benchmarks/lerobot_success.py

Records the tests' reach task (`tests/lerobot/reach`: see at which of six places a disc lies, move there and close the
gripper, in one attempt), trains with `lerobot-train` and evaluates with `lerobot-eval`, one after the other, on
episodes whose seeds no demonstration had. `dae` gets as many steps as `diffusion`, a quarter of them and, if more may
help, as much time: processor time of the whole command on a CPU, wall time on a GPU. There are two controls: `dae`
without images, and `dae` with a frozen random head.

Finished parts are kept in `outputs/lerobot_success` and not repeated. A training that was killed starts again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from action_heads_lab.sim.interval import wilson
from common import KEEP_FREED_MEMORY, command_line, write_results

ROOT = Path(__file__).parents[1]
TASK = ROOT / "tests" / "lerobot"
OUT = ROOT / "outputs" / "lerobot_success"
PIXELS = 96  # The side of an image, as in PushT.
HORIZON = 16  # Time steps of a chunk, as in the bundled heads and in the paper of Diffusion Policy.
SEED = 10_000  # The seed of the first evaluation. Demonstrations start at 0.

DAE = ["--policy.type=dae", "--policy.head=dae/mlp-5m-fk-delta", "--policy.action_layout=libero"]
POLICIES = {
    # LeRobot's defaults, but that nothing is downloaded, hence GroupNorm; the chunk; and sampling in ten steps, as dae
    # does. By default the last seven frames of an episode are not trained on, which is most of ours.
    "diffusion": [
        *("--policy.type=diffusion", "--policy.pretrained_backbone_weights=null", "--policy.use_group_norm=true"),
        *(f"--policy.horizon={HORIZON}", "--policy.drop_n_last_frames=0"),
        *("--policy.noise_scheduler_type=DDIM", "--policy.num_inference_steps=10"),
    ],
    "dae": DAE,
    "dae-quarter": DAE,
    "dae-quarter-random-frozen": [*DAE, "--policy.head_mode=random-frozen"],
    "dae-blind": [*DAE, "--policy.cameras=[]"],
    "dae-random-frozen": [*DAE, "--policy.head_mode=random-frozen"],
    "dae-as-long": DAE,
}


def run(name: str, script: str, arguments: list[str], threads: int, memory: dict[str, str]) -> dict:
    """Run one of LeRobot's commands and return its cost in s and GB, from its record if it was run before."""
    folder = OUT / name / script
    record = folder.with_suffix(".json")
    if record.exists() and (done := json.loads(record.read_text(encoding="utf-8")))["arguments"] == arguments:
        return done
    # A new training invalidates the old evaluation.
    shutil.rmtree(OUT / name if script == "lerobot-train" else folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(filter(None, (str(TASK), os.environ.get("PYTHONPATH"))))
    environment = os.environ | memory | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    command = [str(Path(sys.executable).with_name(script)), *arguments, f"--output_dir={folder}"]
    began, log = time.perf_counter(), folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    done = {
        "arguments": arguments,
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }
    record.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return done


def train(name: str, steps: int, data: list[str], options: argparse.Namespace) -> dict:
    warmup = max(1, steps // 10)
    arguments = [
        *POLICIES[name],
        *("--policy.n_obs_steps=2", "--policy.n_action_steps=8", f"--policy.scheduler_warmup_steps={warmup}"),
        *(f"--policy.device={options.device}", "--policy.push_to_hub=false", *data),
        *(f"--steps={steps}", f"--save_freq={steps}", f"--log_freq={max(1, steps // 10)}", "--seed=1000"),
        *(f"--batch_size={options.batch_size}", "--num_workers=0"),
    ]
    done = run(name, "lerobot-train", arguments, options.threads, KEEP_FREED_MEMORY)
    log = (OUT / name / "lerobot-train.log").read_text(encoding="utf-8")
    trained, total = (re.search(rf"num_{kind}_params=(\d+)", log) for kind in ("learnable", "total"))
    assert trained
    assert total
    return done | {
        "steps": steps,
        "parameters": int(total[1]),
        "trained": int(trained[1]),
        "losses": [float(loss) for loss in re.findall(r" loss:([\d.]+)", log)],
    }


def evaluate(name: str, options: argparse.Namespace) -> dict:
    checkpoint = OUT / name / "lerobot-train" / "checkpoints" / "last" / "pretrained_model"
    arguments = [
        *(f"--policy.path={checkpoint}", f"--policy.device={options.device}", f"--seed={SEED}"),
        *("--env.type=reach", "--env.discover_packages_path=reach", f"--env.size={PIXELS}"),
        *(f"--eval.n_episodes={options.episodes}", f"--eval.batch_size={min(50, options.episodes)}"),
        "--eval.use_async_envs=false",
    ]
    done = run(name, "lerobot-eval", arguments, options.threads, {})
    episodes = json.loads((OUT / name / "lerobot-eval" / "eval_info.json").read_text(encoding="utf-8"))["per_task"][0][
        "metrics"
    ]
    successes = [bool(success) for success in episodes["successes"]]
    assert len(successes) == options.episodes
    return done | {
        "episodes": len(successes),
        "successes": sum(successes),
        "wilson_95": [round(end, 3) for end in wilson(sum(successes), len(successes))],
    }


def dataset(demos: int) -> list[str]:
    """Return the flags that name the demonstrations, and record these first if they are missing."""
    folder = OUT / f"reach-{demos}"
    if not folder.exists():
        sys.path.insert(0, str(TASK))
        from reach import record  # pyright: ignore[reportMissingImports]

        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        record(partial, demos, size=PIXELS).rename(folder)
    return ["--dataset.repo_id=local/reach", f"--dataset.root={folder}"]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--demos", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    data, rows = dataset(options.demos), {}
    clock = "cpu_s" if options.device == "cpu" else "wall_s"
    for name in POLICIES:
        steps = options.steps // 4 if "quarter" in name else options.steps
        if name == "dae-as-long":
            if rows["dae"]["eval"]["successes"] == options.episodes:
                continue  # Less time was enough for every episode.
            # Slightly fewer steps than would fit, since the steps' time includes the start of the command.
            steps = int(steps * rows["diffusion"]["train"][clock] / rows["dae"]["train"][clock])
        rows[name] = {"train": train(name, steps, data, options), "eval": evaluate(name, options)}
        done = rows[name]
        print(f"{name}: {done['eval']['successes']} of {done['eval']['episodes']}, {done['train']}", flush=True)
        plain = json.loads(json.dumps(rows).replace(f"{ROOT}/", ""))
        settings = {"lerobot": version("lerobot"), **vars(options), "pixels": PIXELS}
        write_results("lerobot_success" + "_cuda" * (options.device == "cuda"), settings | {"rows": plain})


if __name__ == "__main__":
    main()
