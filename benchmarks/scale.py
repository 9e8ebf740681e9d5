"""What a billion pairs cost: `python benchmarks/scale.py`; the arithmetic of docs/scale.md.

FLOPs are counted (`training_counts.py`); everything else is a stated assumption or a product of
both, so that each line can be checked, and changed on the command line.
"""

import argparse
import json
import sys
from dataclasses import dataclass

import torch
from training_counts import Size, branch_like, step_flops

PAPER_GPUS, PAPER_DAYS, PAPER_BATCH = 80, 60, 3200  # arXiv 2309.00952: A800, two months


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What arithmetic cannot know."""

    pairs: float = 1e9
    """Captioned pictures."""
    gpus: int = PAPER_GPUS
    """GPUs that train together."""
    peak: float = 312e12
    """FLOP/s of one GPU in bfloat16: A100 and A800 312, H100 989 TFLOP/s."""
    utilisation: float = 0.4
    """Part of the peak that a well-fed step reaches."""
    tokens: float = 20.0
    """Tokens of a mean native caption, which a cache keeps; 52 is a whole window."""
    picture_bytes: float = 100e3
    """A mean picture as a JPEG of 512 pixels."""


def gpu_hours(flops: float, a: Assumptions) -> float:
    """GPU hours of so many FLOPs for each of all pairs."""
    return a.pairs * flops / (a.utilisation * a.peak) / 3600


def note_bytes() -> float:
    """Memory of what the picture store keeps of one pair in Python objects: its note."""
    note = json.loads('{"key": "000000000.jpg", "captions": ["除夕夜，一家人在包饺子，看春晚"]}')
    inside = sum(sys.getsizeof(v) for v in (note["key"], note["captions"], *note["captions"]))
    return sys.getsizeof(note) + inside + 8  # and its place in the list


def lines(a: Assumptions) -> list[str]:
    """One line a quantity, with the sum behind it."""
    size = Size()
    flops = step_flops(size)
    with torch.device("meta"):
        branch = branch_like(size.unet(), size.native_width)
    weights = sum(weight.numel() for weight in branch.parameters())
    live = flops.vae + flops.texts + flops.nets
    latent = 4 * size.latents**2 * 2
    states = a.tokens * size.native_width * 2
    rate = a.utilisation * a.peak / flops.nets  # images/s of a GPU
    step = PAPER_BATCH / a.gpus / rate
    ring = 2 * (a.gpus - 1) / a.gpus * 4 * weights
    hours = PAPER_GPUS * PAPER_DAYS * 24
    tera, hour = 1e12, "GPU hours"
    return [
        f"nets {flops.nets / tera:.2f} TFLOP an image, autoencoder {flops.vae / tera:.2f}, "
        f"texts {flops.texts / tera:.3f}",
        f"one pass over {a.pairs:.0e} pairs, cached: {gpu_hours(flops.nets, a):,.0f} {hour}",
        f"one pass, cached, with checkpointing: {gpu_hours(flops.checkpointed, a):,.0f} {hour}",
        f"one pass, everything in the step: {gpu_hours(live, a):,.0f} {hour}",
        f"encoding the pictures once: {gpu_hours(flops.vae, a):,.0f} {hour}, saved in each pass",
        f"encoding the texts in each pass: {gpu_hours(flops.texts, a):,.0f} {hour}",
        f"the paper's budget, {PAPER_GPUS} GPUs for {PAPER_DAYS} days: {hours:,} {hour}, "
        f"{hours / gpu_hours(live, a):.0f} passes uncached, "
        f"{(hours - gpu_hours(flops.vae, a)) / gpu_hours(flops.nets, a):.0f} cached",
        f"latents: {latent / 1024:.0f} KiB a picture, {a.pairs * latent / 1e12:.0f} TB; the "
        f"pictures themselves {a.pairs * a.picture_bytes / 1e12:.0f} TB",
        f"text states: {states / 1e3:.0f} kB a caption of {a.tokens:.0f} tokens, "
        f"{a.pairs * states / 1e12:.0f} TB",
        f"reading: {a.gpus * rate:,.0f} images/s of {a.gpus} GPUs, "
        f"{a.gpus * rate * latent / 1e6:.0f} MB/s of latents, "
        f"{a.gpus * rate * states / 1e6:.0f} MB/s of text states",
        f"gradients: {weights / 1e6:.0f} M weights, {ring / 1e9:.1f} GB to and from each GPU a "
        f"step of {step:.2f} s: {8 * ring / step / 1e9:.0f} Gbit/s",
        f"a checkpoint with its average and moments: {16 * weights / 1e9:.1f} GB",
        f"notes of the picture store in memory: {note_bytes():.0f} B a pair, "
        f"{a.pairs * note_bytes() / 1e9:.0f} GB; the order of an epoch {8 * a.pairs / 1e9:.0f} GB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    standard = Assumptions()
    for name in Assumptions.__slots__:
        value = getattr(standard, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    for line in lines(Assumptions(**vars(parser.parse_args()))):
        print(f"- {line}")


if __name__ == "__main__":
    main()
