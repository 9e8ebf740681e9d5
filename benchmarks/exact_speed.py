"""What exact speed-ups save: `python benchmarks/exact_speed.py [--pairs 12]`, at most 2 minutes.

One guidance step (batch 2: negative and positive half) with an empty English prompt, in which the
branch and the backbone run. Counted at Stable Diffusion 1.5's shapes, without computing anything:

- the backbone's encoder half computed for both halves, or once (`models/shared_encoder.py`);
- the branch's text keys and values: the most that keeping them over the steps could save.

Timed on a backbone of an eighth of the widths: interleaved pairs of plain and shared steps, the
ratio of each pair, its median and quartiles. A loaded machine spoils times, never counts.
"""

import argparse
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bridge_diffusion.models import BridgeBranch
from bridge_diffusion.models.shared_encoder import SharedEncoder

NATIVE_WIDTH, NATIVE_TOKENS = 1024, 52
TIME_LIMIT = 100.0  # seconds for all pairs

Step = Callable[[bool], Tensor]


def make_unet(widths: tuple[int, ...], text_width: int) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's backbone, or a narrower one."""
    return UNet2DConditionModel(
        block_out_channels=widths, cross_attention_dim=text_width, norm_num_groups=8
    ).eval()


def make_step(unet: UNet2DConditionModel, latents: int) -> tuple[Step, BridgeBranch]:
    """A guidance step, with the encoder shared or not: `step(True)`."""
    device = unet.device
    config = {
        name: unet.config[name]
        for name in BridgeBranch._get_init_keys(BridgeBranch) - {"self"}
        if name in unet.config
    }
    with device:
        branch = BridgeBranch.from_config({**config, "cross_attention_dim": NATIVE_WIDTH}).eval()
        sample = torch.ones(2, 4, latents, latents)
        native = torch.ones(2, NATIVE_TOKENS, NATIVE_WIDTH)
        english = torch.ones(2, 77, unet.config.cross_attention_dim)
        timestep = torch.ones((), dtype=torch.long)
    shared = SharedEncoder()
    shared.attach(unet)

    @torch.no_grad()
    def step(share: bool) -> Tensor:
        down, mid = branch(sample, timestep, native)
        if share:
            shared.start(len(sample))
        try:
            return unet(
                sample,
                timestep,
                english,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
        finally:
            shared.stop()

    return step, branch


def count(step: Step, share: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        step(share)
    return counter.get_total_flops()


def text_flops(branch: BridgeBranch) -> int:
    """Of the branch's text keys and values, for both guidance halves."""
    weights = [
        linear.weight.numel()
        for module in branch.modules()
        if isinstance(module, Attention) and module.is_cross_attention
        for linear in (module.to_k, module.to_v)
    ]
    return 2 * 2 * NATIVE_TOKENS * sum(weights)


def report_counts(latents: int) -> None:
    with torch.device("meta"):
        step, branch = make_step(make_unet((320, 640, 1280, 1280), 768), latents)
    plain, shared = count(step, False), count(step, True)
    print(
        f"SD1.5, {latents}x{latents} latents: {plain / 1e9:.0f} GFLOP a step; "
        f"plain / shared {plain / shared:.3f}; text keys and values "
        f"{text_flops(branch) / shared:.2%} of a shared step"
    )


def report_times(pairs: int) -> None:
    step, _ = make_step(make_unet((40, 80, 160, 160), 96), 32)
    step(True), step(False)
    ratios, began = [], time.perf_counter()
    while len(ratios) < pairs and time.perf_counter() - began < TIME_LIMIT:
        seconds = {}
        for share in (True, False) if len(ratios) % 2 else (False, True):
            start = time.perf_counter()
            step(share)
            seconds[share] = time.perf_counter() - start
        ratios.append(seconds[False] / seconds[True])
    low, middle, high = torch.tensor(ratios).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    counted = count(step, False) / count(step, True)
    print(
        f"widths / 8, 32x32 latents: {len(ratios)} pairs, time plain / shared {middle:.3f} "
        f"(quartiles {low:.3f} to {high:.3f}); FLOP ratio {counted:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=12, help="interleaved pairs to time")
    pairs = parser.parse_args().pairs
    for latents in (32, 64):
        report_counts(latents)
    report_times(pairs)


if __name__ == "__main__":
    main()
