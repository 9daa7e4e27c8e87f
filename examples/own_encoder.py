"""Train an encoder of your own with a frozen head, from images, in a minute on a laptop and without a download.

uv run examples/own_encoder.py

The task is a toy: an image shows a dot, and the chunk is a straight reach to the dot. Encoder and adapter train
together; the gradient passes through the frozen head into the encoder.
"""

import torch
from torch import nn
from tqdm import trange

from action_heads import ActionHead, Normalizer
from action_heads.adapters import AdaLNZero

PIXELS, STEPS, BATCH = 32, 400, 64
DOWN = torch.tensor([1.0, 0, 0, 0, -1.0, 0])  # The first two rows of the rotation matrix of a hand that points down.


def draw(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images (n, 1, 32, 32), reaching chunks (n, 16, 10) and goals (n, 2) in metres."""
    goal = torch.rand(n, 2) * 0.4 - 0.2
    axis = torch.linspace(-0.25, 0.25, PIXELS)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance = (x - goal[:, 0, None, None]) ** 2 + (y - goal[:, 1, None, None]) ** 2
    image = torch.exp(-distance / (2 * 0.02**2))[:, None]
    s = torch.linspace(0, 1, 16)[:, None]
    progress = s**3 * (10 + s * (6 * s - 15))  # A minimum-jerk profile.
    start = torch.tensor([0.0, 0.0])
    xy = start + progress * (goal[:, None] - start)
    position = torch.cat([xy + torch.tensor([0.5, 0.0]), torch.full((n, 16, 1), 0.2)], dim=-1)
    chunk = torch.cat([position, DOWN.expand(n, 16, 6), torch.full((n, 16, 1), -1.0)], dim=-1)
    return image, chunk, goal


def main() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(64),
    )
    encoder(draw(1)[0])
    head = ActionHead.from_pretrained("dae/mixer-5m-fk")
    normalizer = Normalizer.fit(draw(1000)[1], head.config.space)
    policy = head.attach(AdaLNZero(cond_dim=64), normalizer=normalizer)
    print(policy)

    optimizer = torch.optim.AdamW([*encoder.parameters(), *policy.trainable_parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in (bar := trange(STEPS)):
        image, chunk, _ = draw(BATCH)
        loss = policy.loss(chunk, encoder(image))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}")

    image, _, goal = draw(200)
    for name, shown in {"with images": image, "blind": torch.zeros_like(image)}.items():
        with torch.no_grad():
            reached = policy.sample(encoder(shown), steps=10)[:, -1, :2] - torch.tensor([0.5, 0.0])
        print(f"{name}: the last action is {1e3 * (reached - goal).norm(dim=1).mean():.0f} mm from the dot")


if __name__ == "__main__":
    main()
