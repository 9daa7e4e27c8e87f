"""A vision-language model on a frozen head: from rendered pictures to success in physics, without a download.

uv run examples/attach_to_vlm.py      # 11 minutes on one core beside other jobs, 6 once the recording is there

Lift in robosuite: the wrist camera sees the cube, the model sees the camera's picture, the head moves the arm. The
model is a tiny SmolVLM of random weights. Real ones know about pictures; this one is first taught to say where the cube
is, seen from the hand, which stands for that. Then it is frozen, and its embeddings are cached on the disk:

    vlm = AutoModelForImageTextToText.from_pretrained("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", dtype="bfloat16")
    tap = Tap(vlm, layer=16)   # also Qwen/Qwen2.5-VL-3B-Instruct, google/paligemma-3b-pt-224, ...; or train="lora"

The control is trained and rolled out with every picture replaced by grey: what is left to it is the arm's own state.
"""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from action_heads import ActionHead, ConditionedHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, cosine, fit
from action_heads.sim import Demonstrations, Sim, make
from action_heads.sim.frames import Pose, rotation_from_6d
from action_heads.sim.record import run_expert
from action_heads.vlm import Tap, embed

PIXELS, STATE = 32, 11  # of the state: tool position 3, rotation 6, fingers 2
IMAGE, WORDS = 60, (3, 7, 5)  # the id of a piece of the picture; "lift the cube", had there been a tokenizer
CAMERA, SEEDS = "robot0_eye_in_hand", 10_000  # rollouts start from seeds 0, 1, 2, ...
OUT = Path("outputs/attach_to_vlm")
THREE_LINES = """
    tap = Tap(vlm)
    policy = head.attach(AdaLNZero(cond_dim=tap.width))
    tokens, mask = tap(**processor_inputs)  # for policy.loss(actions, tokens, mask=mask) and policy.sample(...)
"""


def tiny_vlm() -> SmolVLMForConditionalGeneration:
    """SmolVLM in small: a SigLIP of 64 patches, which a pixel shuffle makes 16 tokens of a language model."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 4, "initializer_range": 0.1}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = shape | {"image_size": PIXELS, "patch_size": 4}
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)
    )


def processed(pictures: Tensor) -> dict[str, Tensor]:
    """Pictures (b h w 3) uint8 -> what SmolVLM's processor makes of them and of the words."""
    ids = torch.tensor([[IMAGE] * 16 + list(WORDS)]).expand(len(pictures), -1)
    pixels = pictures.permute(0, 3, 1, 2)[:, None].float() / 127.5 - 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def teach(vlm: SmolVLMForConditionalGeneration, pictures: Tensor, recording: Demonstrations, steps: int) -> None:
    """The stand-in for pretraining: the last word's token learns where the cube is and how it is turned."""
    where, last = locations(recording), int(recording.episode_length[-8:].sum())  # the last episodes are held out
    tap, answer = Tap(vlm, train="full"), nn.Linear(64, where.shape[1])
    mean, std = where[:-last].mean(0), where[:-last].std(0)
    parameters, config = [*tap.parameters(), *answer.parameters()], FitConfig(steps=steps, lr=1e-3)
    optimizer = torch.optim.AdamW(parameters)
    for step in (bar := trange(steps, desc="teaching", unit="step")):
        optimizer.param_groups[0]["lr"] = cosine(step, config)
        rows = torch.randint(len(where) - last, (128,))
        loss = (answer(tap(**processed(pictures[rows]))[0][:, -1]) - (where[rows] - mean) / std).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    with torch.no_grad():
        said = answer(tap(**processed(pictures[-last:]))[0][:, -1]) * std + mean
    error = 1e3 * (said - where[-last:])[:, :3].norm(dim=1).median()
    print(f"the model says where the cube is to within {error:.0f} mm (median over 8 episodes it has not seen)")


def locations(recording: Demonstrations) -> Tensor:
    """Of the cube in the hand's frame: position (3, m), and its heading, alike after every quarter turn (2)."""
    seen = recording.observation.astype(np.float64)
    hand, cube = (np.stack([rotation_from_6d(row) for row in seen[:, part]]) for part in (slice(3, 9), slice(14, 20)))
    position = np.einsum("n i j, n i -> n j", hand, seen[:, 20:23])
    heading = 4 * Rotation.from_matrix(np.swapaxes(hand, 1, 2) @ cube).as_euler("zyx")[:, 0]
    return torch.from_numpy(np.c_[position, np.cos(heading), np.sin(heading)]).float()


def train(tap: Tap, pictures: Tensor, recording: Demonstrations, steps: int) -> ConditionedHead:
    """An adapter on the frozen head, from cached embeddings and the arm's state."""
    head = ActionHead.from_pretrained("dae/mlp-5m-fk")
    _, actions, is_pad = (torch.from_numpy(np.asarray(part)) for part in recording.chunks(head.config.horizon))
    state, normalizer = torch.from_numpy(recording.observation[:, :STATE]), Normalizer.fit(actions, head.config.space)
    cached = embed(tap, pictures.split(1), OUT / "embeddings", processed, batch_size=128, shard_size=1024)
    tokens, mask = cached[:]
    policy = head.attach(AdaLNZero({"tokens": tap.width, "state": STATE}, pool="last"), normalizer=normalizer)
    policy.adapter.standardize({"tokens": tokens, "state": state}, {"tokens": mask})
    print(policy)
    fit(policy, actions, {"tokens": cached, "state": state}, is_pad=is_pad, config=FitConfig(steps=steps))
    return policy


def roll_out(sim: Sim, tap: Tap, policy: ConditionedHead, episodes: int, blind: bool) -> int:
    """Closed loop, a new picture for every 8 actions; how many unseen episodes succeed."""
    successes = 0
    executor = Executor(policy, execute=8, generator=torch.Generator().manual_seed(0))
    for episode in (bar := trange(episodes, desc="rolling out", unit="episode")):
        observation = sim.reset(episode)
        executor.reset()
        for _ in range(sim.task.rollout_steps):
            seen = {}
            if executor.due:
                picture = torch.from_numpy(sim.render(PIXELS, CAMERA).copy())[None]
                tokens, mask = tap(**processed(grey(picture) if blind else picture))
                state = torch.from_numpy(observation[None, :STATE])
                seen = {"cond": {"tokens": tokens, "state": state}, "mask": {"tokens": mask}}
            observation = sim.step(executor(**seen)[0].numpy())
            if sim.success():
                successes += 1
                break
        bar.set_postfix(success=f"{successes}/{episode + 1}")
    return successes


def grey(pictures: Tensor) -> Tensor:
    """Not black: SmolVLM takes a picture of zeros for padding and leaves it out."""
    return torch.full_like(pictures, 127)


def lift() -> Sim:
    """Lift with the cube anywhere in a square of 14 cm: in robosuite's, of 6, a hand that opens 8 often wins blind."""
    sim = make("Lift", render=True)
    sim.reset(0)
    sim.env.hard_reset = False  # later resets keep the model, with what follows, and its GL context: they take a tenth
    sim.env.placement_initializer.x_range = sim.env.placement_initializer.y_range = (-0.07, 0.07)
    return sim


def demonstrate(sim: Sim, demos: int) -> tuple[Demonstrations, Tensor]:
    """Scripted demonstrations, and what the wrist camera saw in each step (n h w 3) uint8; kept for the next run."""
    file = OUT / f"lift-{demos}.npz"
    if not file.exists():
        kept = []
        with tqdm(total=demos, desc="recording") as bar:
            for seed in count(SEEDS):
                if len(kept) == demos:
                    break
                if (episode := run_expert(sim, seed, sim.task.noise)).success:
                    kept.append(episode)
                    bar.update()
        steps = {
            name: np.concatenate([getattr(each, name) for each in kept])
            for name in ("observation", "action", "joint_position")
        }
        length, seeds = np.array([len(each.action) for each in kept]), np.array([each.seed for each in kept])
        Demonstrations(**steps, episode_length=length, seed=seeds, task="Lift", noise=sim.task.noise).save(file)
    recording, pictures = Demonstrations.load(file), OUT / f"lift-{demos}-pictures.npy"
    if not pictures.exists():
        np.save(draft := OUT / "draft.npy", photograph(sim, recording))
        draft.replace(pictures)  # whole, or not there
    return recording, torch.from_numpy(np.load(pictures))


def photograph(sim: Sim, recording: Demonstrations) -> np.ndarray:
    """The simulator is put into each recorded state and looks; nothing moves."""
    data, robot, pictures = sim.mujoco.data, sim.robot, []
    moments = zip(recording.observation, recording.joint_position, strict=True)
    for seen, joints in tqdm(moments, desc="rendering", total=len(recording.action)):
        cube = sim.base_in_world @ Pose(seen[11:14], rotation_from_6d(seen[14:20]))
        data.qpos[robot._ref_joint_pos_indexes] = joints
        data.qpos[robot._ref_gripper_joint_pos_indexes] = seen[9:11]
        data.set_joint_qpos("cube_joint0", [*cube.p, *Rotation.from_matrix(cube.R).as_quat()[[3, 0, 1, 2]]])
        sim.mujoco.forward()
        pictures.append(sim.render(PIXELS, CAMERA))
    return np.stack(pictures)


def main(
    demos: int = 80,
    lessons: int = 1500,
    steps: int = 500,
    episodes: int = 25,
    runs: tuple[str, ...] = ("seeing", "blind"),
) -> None:
    """Record, teach the model, train adapters and roll out, seeing and blind."""
    OUT.mkdir(parents=True, exist_ok=True)
    began, sim, rows = time.monotonic(), lift(), []
    recording, pictures = demonstrate(sim, demos)
    print(f"{recording}, {time.monotonic() - began:.0f} s")
    torch.manual_seed(0)
    teach(vlm := tiny_vlm(), pictures, recording, lessons)
    tap = Tap(vlm)  # frozen from here on
    for name in runs:
        print(f"\n{name}")
        policy = train(tap, grey(pictures) if name == "blind" else pictures, recording, steps)
        rows.append((name, roll_out(sim, tap, policy, episodes, name == "blind")))
    print(f"\nLift, {demos} demonstrations, {steps} steps: {(time.monotonic() - began) / 60:.1f} minutes")
    for name, successes in rows:
        print(f"  {name:<7} {successes:>3} of {episodes}  {'█' * round(30 * successes / episodes)}")
    print(f"\nwhat attaches a model of your own:{THREE_LINES}")
    sim.close()


if __name__ == "__main__":
    tyro.cli(main)
