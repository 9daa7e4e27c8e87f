"""Attach a vision-language model to a frozen head and solve a task in simulation, in a minute and without a download.

uv run examples/attach_to_vlm.py

The task is Lift in robosuite: the wrist camera sees the cube, the model gets the image, and the head moves the arm.
Model and head are frozen. Only an adapter trains, on demonstrations whose embeddings are computed once and kept. The
model is a tiny SmolVLM, made by tiny_vlm/make.py. With a real one:

    vlm = AutoModelForImageTextToText.from_pretrained("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", dtype="bfloat16")
    tap = Tap(vlm, layer=16)   # also Qwen/Qwen2.5-VL-3B-Instruct, google/paligemma-3b-pt-224, ...; or train="lora"

The blind control is trained and rolled out with grey images, so that it only has the arm's own state.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import tyro
from action_heads_lab.sim import Demonstrations, Sim
from action_heads_lab.sim.interval import wilson
from tiny_vlm.make import CAMERA, EVERY, HERE, PIXELS, lift, processed, recorded
from torch import Tensor
from tqdm import trange
from transformers import AutoModelForImageTextToText

from action_heads import ActionHead, ConditionedHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.vlm import Tap, embed

STATE = 11  # The state of the arm itself: position 3 and rotation 6 of the tool, and fingers 2.


def train(tap: Tap, head: ActionHead, demonstrations: Demonstrations, images: Tensor, steps: int) -> ConditionedHead:
    """Train an adapter on the frozen head, from embeddings and the arm's state."""
    cached = embed(tap, images.split(1), Path("outputs/attach_to_vlm"), processed, batch_size=128, shard_size=1024)
    _, *chunks = demonstrations.chunks(head.config.horizon)
    actions, is_pad = (torch.from_numpy(part[::EVERY]) for part in chunks)
    state = torch.from_numpy(demonstrations.observation[::EVERY, :STATE])

    adapter = AdaLNZero({"tokens": tap.width, "state": STATE}, pool="last")
    policy = head.attach(adapter, normalizer=Normalizer.fit(actions, head.config.space))
    tokens, mask = cached[:]
    adapter.standardize({"tokens": tokens, "state": state}, {"tokens": mask})
    fit(policy, actions, {"tokens": cached, "state": state}, is_pad=is_pad, config=FitConfig(steps=steps))
    return policy


def roll_out(sim: Sim, tap: Tap, policy: ConditionedHead, episodes: int, blind: bool) -> int:
    """Roll out in closed loop with a new image every 8 actions; return how many unseen episodes succeed."""
    successes = 0
    executor = Executor(policy, execute=8, generator=torch.Generator().manual_seed(0))
    for episode in (bar := trange(episodes, desc="rolling out", unit="episode")):
        observation = sim.reset(episode)
        executor.reset()
        for _ in range(sim.task.rollout_steps):
            seen = {}
            if executor.due:
                image = torch.from_numpy(sim.render(PIXELS, CAMERA).copy())[None]
                tokens, mask = tap(**processed(grey(image) if blind else image))
                state = torch.from_numpy(observation[None, :STATE])
                seen = {"cond": {"tokens": tokens, "state": state}, "mask": {"tokens": mask}}
            observation = sim.step(executor(**seen)[0].numpy())
            if sim.success():
                successes += 1
                break
        bar.set_postfix(success=f"{successes}/{episode + 1}")
    return successes


def grey(images: Tensor) -> Tensor:
    """Return grey images in place of these. SmolVLM would take black ones for padding and leave them out."""
    return torch.full_like(images, 127)


def main(head: str = "dae/mlp-0.7m-fk", steps: int = 400, episodes: int = 20) -> None:
    """Train an adapter and roll it out, with images and blind."""
    torch.set_num_threads(1)  # Models this small are not faster with more threads.
    began, sim, rows = time.monotonic(), lift(), []
    demonstrations, images = recorded()
    tap = Tap(AutoModelForImageTextToText.from_pretrained(HERE, dtype=torch.float32))
    frozen = ActionHead.from_pretrained(head)
    for blind in (False, True):
        print("\nblind" if blind else f"\n{demonstrations}")
        policy = train(tap, frozen, demonstrations, grey(images) if blind else images, steps)
        rows.append(("blind" if blind else "seeing", roll_out(sim, tap, policy, episodes, blind)))
    print(f"\n{policy}\nand {sum(p.numel() for p in tap.parameters()):,} frozen parameters of the model")
    for name, successes in rows:
        low, high = wilson(successes, episodes)
        bar = "█" * round(30 * successes / episodes)
        print(f"  {name:<7}{successes:>3} of {episodes} ({low:.0%} to {high:.0%})  {bar}")
    print(f"{time.monotonic() - began:.0f} s. To attach a model of your own:")
    print("    tap = Tap(vlm)\n    policy = head.attach(AdaLNZero(cond_dim=tap.width))")
    print("    tokens, mask = tap(**processor_inputs)  # for policy.loss(actions, tokens, mask=mask) and policy.sample")
    sim.close()


if __name__ == "__main__":
    tyro.cli(main)
