"""Record the demonstrations and train the tiny model that `attach_to_vlm.py` starts from.

uv run examples/tiny_vlm/make.py      # makes both again in about ten minutes; the results are in this folder

The task is Lift in robosuite, with a cube anywhere in a square of 14 cm and images of a wrist camera. The model is a
small SmolVLM that is trained to predict the position of the cube relative to the hand. This stands for what real
models learn from images and text.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import torch
import tyro
from action_heads_lab.sim import Demonstrations, Sim, make
from action_heads_lab.sim.frames import Pose, rotation_from_6d
from action_heads_lab.sim.record import SEEDS, run_expert, together
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from action_heads.fit import cosine
from action_heads.vlm import Tap

HERE = Path(__file__).parent
RECORDING, PICTURES = HERE / "lift.npz", HERE / "pictures.npz"
EVERY = 2  # Every second time step has an image, since neighbours are alike.
PIXELS, CAMERA = 32, "robot0_eye_in_hand"
IMAGE, WORDS = 60, (3, 7, 5)  # The ids of an image token, and of the words "lift the cube", in place of a tokenizer.


def tiny_vlm() -> SmolVLMForConditionalGeneration:
    """Build a random SmolVLM: a SigLIP of 64 patches, of which a pixel shuffle makes 16 tokens."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 4, "initializer_range": 0.1}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = shape | {"image_size": PIXELS, "patch_size": 4}
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)
    )


def processed(images: Tensor) -> dict[str, Tensor]:
    """Return what SmolVLM's processor returns for images (b h w 3) uint8 and the words."""
    ids = torch.tensor([[IMAGE] * 16 + list(WORDS)]).expand(len(images), -1)
    pixels = images.permute(0, 3, 1, 2)[:, None].float() / 127.5 - 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def lift() -> Sim:
    """Build Lift with the cube in a square of 14 cm; in robosuite's of 6, a hand open by 8 often succeeds blind."""
    sim = make("Lift", render=True)
    sim.reset(0)
    sim.env.hard_reset = False  # Later resets keep the model and its GL context, and take a tenth of the time.
    sim.env.placement_initializer.x_range = sim.env.placement_initializer.y_range = (-0.07, 0.07)
    return sim


def recorded() -> tuple[Demonstrations, Tensor]:
    """Load the demonstrations of this folder, and the wrist camera's image of every second time step (k h w 3)."""
    with np.load(PICTURES) as file:
        return Demonstrations.load(RECORDING), torch.from_numpy(file["wrist"])


def demonstrate(sim: Sim, demos: int) -> Demonstrations:
    """Record episodes of the scripted expert, and keep those that succeed."""
    kept = []
    with tqdm(total=demos, desc="recording") as bar:
        for seed in count(SEEDS):
            if len(kept) == demos:
                break
            if (episode := run_expert(sim, seed, sim.task.noise)).success:
                kept.append(episode)
                bar.update()
    return together(kept, "Lift", sim.task.noise)


def photograph(sim: Sim, recording: Demonstrations) -> np.ndarray:
    """Render images (k h w 3) of every second recorded state, without simulating."""
    data, robot, images = sim.mujoco.data, sim.robot, []
    moments = zip(recording.observation[::EVERY], recording.joint_position[::EVERY], strict=True)
    for seen, joints in tqdm(list(moments), desc="rendering"):
        cube = sim.base_in_world @ Pose(seen[11:14], rotation_from_6d(seen[14:20]))
        data.qpos[robot._ref_joint_pos_indexes] = joints
        data.qpos[robot._ref_gripper_joint_pos_indexes] = seen[9:11]
        data.set_joint_qpos("cube_joint0", [*cube.p, *Rotation.from_matrix(cube.R).as_quat()[[3, 0, 1, 2]]])
        sim.mujoco.forward()
        images.append(sim.render(PIXELS, CAMERA))
    return np.stack(images)


def teach(vlm: SmolVLMForConditionalGeneration, images: Tensor, recording: Demonstrations, steps: int) -> None:
    """Train the stand-in for pretraining: the last word's token learns the cube's position and rotation."""
    where, last = locations(recording), int(recording.episode_length[-8:].sum()) // EVERY  # 8 episodes are held out.
    tap, answer = Tap(vlm, train="full"), nn.Linear(64, where.shape[1])
    mean, std = where[:-last].mean(0), where[:-last].std(0)
    parameters = [*tap.parameters(), *answer.parameters()]
    optimizer = torch.optim.AdamW(parameters)
    for step in (bar := trange(steps, desc="teaching", unit="step")):
        optimizer.param_groups[0]["lr"] = cosine(step, steps, lr=1e-3, warmup=50)
        rows = torch.randint(len(where) - last, (128,))
        loss = (answer(tap(**processed(images[rows]))[0][:, -1]) - (where[rows] - mean) / std).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    with torch.no_grad():
        said = answer(tap(**processed(images[-last:]))[0][:, -1]) * std + mean
    error = 1e3 * (said - where[-last:])[:, :3].norm(dim=1).median()
    print(f"the model predicts the position of the cube to {error:.0f} mm (median over 8 held-out episodes)")


def locations(recording: Demonstrations) -> Tensor:
    """Return (k 5): the cube's position in the hand's frame (3, m) and heading, equal after a quarter turn (2)."""
    seen = recording.observation[::EVERY].astype(np.float64)
    hand, cube = (np.stack([rotation_from_6d(row) for row in seen[:, part]]) for part in (slice(3, 9), slice(14, 20)))
    position = np.einsum("n i j, n i -> n j", hand, seen[:, 20:23])
    heading = 4 * Rotation.from_matrix(np.swapaxes(hand, 1, 2) @ cube).as_euler("zyx")[:, 0]
    return torch.from_numpy(np.c_[position, np.cos(heading), np.sin(heading)]).float()


def main(demos: int = 80, lessons: int = 1500) -> None:
    """Record the demonstrations and train the model."""
    sim = lift()
    recording = demonstrate(sim, demos)
    recording.save(RECORDING)
    np.savez_compressed(PICTURES, wrist=photograph(sim, recording))
    sim.close()
    torch.manual_seed(0)
    teach(vlm := tiny_vlm(), recorded()[1], recording, lessons)
    vlm.half().save_pretrained(HERE)


if __name__ == "__main__":
    tyro.cli(main)
