"""Time of one action chunk: planned modulation, against the paper's loop which evaluates its generators every step.

uv run benchmarks/latency.py

Batch 1, fp32, 10 DDIM steps, one condition of 2 × 512 features: what a control step of a robot costs, encoder excluded.
"""

from __future__ import annotations

from functools import partial

import diffusers
import torch
from common import median_ms, write_results
from torch import Tensor, nn

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES

COND_DIM, STEPS = 2 * 512, 10


class PaperLoop(nn.Module):
    """DP-MLP as published (arXiv 2511.12101, section III-B), written plainly.

    Step embedding and observation features are concatenated, and every block's FiLM generator reads them at every
    denoising step. The backbone is ours, whose computation the tests hold to the paper's equations.
    """

    def __init__(self, head: ActionHead):
        super().__init__()
        self.net = head.backbone
        width = head.config.width
        self.generators = nn.ModuleList(nn.Linear(width + COND_DIM, 2 * site.hidden) for site in self.net.sites)
        self.scheduler = diffusers.DDIMScheduler(  # pyright: ignore[reportPrivateImportUsage]
            100, beta_schedule="squaredcos_cap_v2", clip_sample=True
        )

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        from action_heads.adapters.film import FiLMModulation

        features = torch.cat([self.net.step(t), nn.functional.mish(cond)], dim=-1)
        return self.net(x, [FiLMModulation(generator(features)[:, None]) for generator in self.generators])

    @torch.no_grad()
    def sample(self, cond: Tensor) -> Tensor:
        x = torch.randn(len(cond), 16, 10)
        self.scheduler.set_timesteps(STEPS)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.denoise(x, t.expand(len(cond)), cond), int(t), x, return_dict=False)[0]
        return x


def main() -> None:
    torch.manual_seed(0)
    results = []
    for batch, repeats in ((1, 50), (16, 10)):
        cond = torch.randn(batch, COND_DIM)
        paper = PaperLoop(ActionHead(HeadConfig()).freeze())
        results.append(
            {
                "what": "the paper's loop, diffusers DDIM",
                "batch": batch,
                "ms": median_ms(partial(paper.sample, cond), repeats),
            }
        )
        for backbone, kind in BACKBONES.items():
            width, depth = (512, 3) if backbone == "unet" else (256, 8)  # the paper's DP-C, and the others
            config = HeadConfig(backbone=backbone, mechanisms=kind.mechanisms, width=width, depth=depth)
            head = ActionHead(config).freeze()
            for name in kind.mechanisms:
                policy = head.attach(ADAPTERS[name](COND_DIM)).eval()
                slow = backbone == "unet"
                ms = median_ms(partial(policy.sample, cond, steps=STEPS), 3 if slow else repeats, 1 if slow else 5)
                results.append({"what": f"{backbone} + {name}", "batch": batch, "ms": ms})
    for row in results:
        print(f"batch {row['batch']:3d}  {row['ms']:8.2f} ms  {row['what']}")
    write_results("latency_cpu", results)


if __name__ == "__main__":
    main()
