"""What training a branch costs: `python benchmarks/training.py`, two minutes on two free cores.

Counted at Stable Diffusion 1.5's sizes, 512x512 (`training_counts.py`): the FLOPs of an image, and
so the gain that caches can give; the bytes of a step, and what each saving saves.

Timed, interleaved in one run, with the same nets, batch and precision:

- ours: `BranchTask` on latents and text states that were encoded once;
- uncached: `BranchTask` that encodes in every step;
- plain: a loop as diffusers' public ControlNet example has it, a stock ControlNet with a blank
  conditioning picture, and the autoencoder and both text encoders in the step.

On a CPU the nets are an eighth as wide and the pictures 256x256 (`--divide 8 --pixels 256`), on
CUDA they have their own sizes (`--device cuda --batch 16`). Narrow nets spend their time beside the
arithmetic that is counted: the wider, the nearer to the gain that FLOPs allow. On a CPU it is
processor time, which other work on the machine hardly changes; give it one thread
(OMP_NUM_THREADS=1). Ratios are of the steps of one round.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionPipeline
from torch import nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from training_counts import Size, SizeXL, controlnet_like, step_bytes, step_flops

from bridge_diffusion.bridge import Bridge, BridgeConfig
from bridge_diffusion.data.pixels import fit_square, to_pixels
from bridge_diffusion.models import BridgeBranch
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.branch import BranchOptions, BranchTask
from bridge_diffusion.training.examples import (
    CachedExamples,
    LiveExamples,
    cache_english,
    cache_pictures,
    cache_texts,
    captions_of,
    encode_backbone_texts,
    english_of,
)
from bridge_diffusion.training.seeds import sample_generators
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder
from bridge_diffusion.worlds.emoji.scenes import EmojiScenes

PAIRS = 16  # captioned pictures that are trained on
TIME_LIMIT = 200.0  # seconds for all rounds

Step = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """The same nets, data and settings for all ways of training."""

    pipe: StableDiffusionPipeline
    """The frozen backbone, with the emoji world's texts and tokenizers."""
    text: NativeTextEncoder
    """The emoji world's Chinese one."""
    scenes: EmojiScenes
    """Captioned pictures."""
    size: Size
    """The nets' sizes."""
    batch: int
    """Images of a step."""
    precision: torch.dtype
    """Of the arithmetic: float32, or bfloat16 by autocast."""

    @property
    def pixels(self) -> int:
        return 8 * self.size.latents


def make_bench(
    device: str, batch: int, precision: torch.dtype, *, divide: int, pixels: int
) -> Bench:
    """`divide`: the nets are 1 / `divide` as wide as Stable Diffusion 1.5's."""
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder(), safety_checker=None)
    text = Bridge.from_pretrained(bridge_folder("zh")).text_encoder
    own = Size()
    english_width = pipe.text_encoder.config.hidden_size
    size = Size(
        english_width=english_width,
        native_width=text.width,
        native_layers=text.model.config.num_hidden_layers,
        native_tokens=text.encoding.native_tokens,
        latents=pixels // 8,
        widths=tuple(width // divide for width in own.widths),
        vae_widths=tuple(width // divide for width in own.vae_widths),
        groups=min(own.groups, own.widths[0] // divide // 5),
    )
    with torch.device(device):
        pipe.register_modules(unet=size.unet(), vae=size.vae())
    pipe.register_to_config(requires_safety_checker=False)
    pipe.to(device)
    text.to(device)
    scenes = EmojiScenes.shipped(language="zh", size=8 * size.latents, count=PAIRS)
    return Bench(pipe=pipe, text=text, scenes=scenes, size=size, batch=batch, precision=precision)


def our_step(bench: Bench, cache: Path | None) -> Step:
    """A step of the library; from what is encoded into `cache`, or encoding each time."""
    pipe, text = bench.pipe, bench.text
    examples: CachedExamples | LiveExamples
    if cache is None:
        examples = LiveExamples(bench.scenes, pipe, text, size=bench.pixels)
    else:
        pictures = cache_pictures(cache, bench.scenes, pipe.vae, size=bench.pixels)
        english = cache_english(cache, english_of(pictures), pipe)
        examples = CachedExamples(
            pictures, cache_texts(cache, captions_of(pictures), text), english
        )
    generator = torch.Generator().manual_seed(0)
    branch = BridgeBranch.from_backbone(pipe.unet, text.width, generator=generator)
    config = BridgeConfig(
        family="sd15", text_encoding=text.encoding, native_width=text.width,
        prediction_type=pipe.scheduler.config.prediction_type,
    )  # fmt: skip
    options = BranchOptions(batch_size=bench.batch, sample_prompts=())
    task = BranchTask(
        pipe, Bridge(branch, text, config), examples, options, device=str(pipe.device)
    )
    branch.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(branch.parameters(), lr=1e-5, fused=True)

    def step(index: int) -> None:
        batch = {
            name: value.to(pipe.device) if isinstance(value, torch.Tensor) else value
            for name, value in task.batch(index).items()
        }
        with _autocast(bench):
            generators = sample_generators(0, 0, index * bench.batch, bench.batch)
            loss = task.loss(batch, generators)["loss"]
        _update(loss, branch, optimizer)

    return step


def plain_step(bench: Bench) -> Step:
    """A step as in diffusers' examples/controlnet: everything frozen is in it."""
    pipe, text, device = bench.pipe, bench.text, bench.pipe.device
    with torch.device(device):
        net = controlnet_like(pipe.unet, text.width)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5)
    velocity = scheduler.config.prediction_type == "v_prediction"
    steps = scheduler.config.num_train_timesteps

    def step(index: int) -> None:
        picked = [bench.scenes[(index * bench.batch + i) % PAIRS] for i in range(bench.batch)]
        pixels = torch.stack([to_pixels(fit_square(p.image, bench.pixels)) for p in picked])
        pixels = pixels.to(device)
        with _autocast(bench):
            with torch.no_grad():
                latents = pipe.vae.encode(pixels).latent_dist.sample()
                latents = latents * pipe.vae.config.scaling_factor
                native = text.encode([p.captions[0] for p in picked])
                english = encode_backbone_texts(pipe, [p.english for p in picked])
            noise = torch.randn_like(latents)
            t = torch.randint(steps, (bench.batch,), device=device)
            noisy = scheduler.add_noise(latents, noise, t)
            target = scheduler.get_velocity(latents, noise, t) if velocity else noise
            predicted = _controlled(net, pipe.unet, noisy, t, native.hidden, english, pixels)
            loss = F.mse_loss(predicted.float(), target.float())
        _update(loss, net, optimizer)

    return step


def _controlled(
    net: ControlNetModel,
    unet: nn.Module,
    noisy: torch.Tensor,
    t: torch.Tensor,
    native: torch.Tensor,
    english: torch.Tensor,
    pixels: torch.Tensor,
) -> torch.Tensor:
    down, mid = net(noisy, t, native, controlnet_cond=torch.zeros_like(pixels), return_dict=False)
    return unet(
        noisy, t, english, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample


def _update(loss: torch.Tensor, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _autocast(bench: Bench) -> torch.autocast:
    half = bench.precision == torch.bfloat16
    return torch.autocast(bench.pipe.device.type, torch.bfloat16, enabled=half)


_PARTS = ("vae", "texts", "hint", "nets", "checkpointed")


def report_flops() -> None:
    flops = step_flops(Size())
    tera = {name: getattr(flops, name) / 1e12 for name in _PARTS}
    print(
        "Counted, Stable Diffusion 1.5, 512x512, TFLOP an image: "
        + ", ".join(f"{name} {value:.3f}" for name, value in tera.items())
        + f"; caches can give {flops.gain:.2f}x"
    )


def report_bytes(batch: int) -> None:
    print(f"\nCounted, Stable Diffusion 1.5, 512x512, batch {batch}, GiB:")
    print("| settings | weights | average | optimiser | gradients | kept | peak | peak / floor |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    half = torch.bfloat16
    for words, settings in (
        ("float32", {"precision": "fp32"}),
        ("bfloat16 arithmetic", {"precision": "bf16"}),
        ("and a frozen backbone in bfloat16", {"precision": "bf16", "frozen": half}),
        ("and checkpointing (recipe sd15)",
         {"precision": "bf16", "frozen": half, "checkpointing": True}),
        ("and an 8-bit optimiser (not offered)",
         {"precision": "bf16", "frozen": half, "checkpointing": True, "moment_bytes": 1}),
    ):  # fmt: skip
        b = step_bytes(Size(), batch=batch, **settings)
        parts = (b.weights, b.average, b.optimizer, b.gradients, b.activations, b.peak)
        cells = " | ".join(f"{part / 2**30:.2f}" for part in parts)
        print(f"| {words} | {cells} | {b.peak / b.floor:.2f} |")


def report_bytes_of_sdxl() -> None:
    """Memory of a step of the recipe sdxl at several batches; what --shard divides apart."""
    print("\nSDXL, 1024x1024, recipe sdxl; GiB")
    print("| batch | backbone | branch, average, moments, gradients | kept | peak |")
    print("| --- | --- | --- | --- | --- |")
    for batch in (1, 4, 8):
        b = step_bytes(
            SizeXL(), batch=batch, precision="bf16", frozen=torch.bfloat16, checkpointing=True
        )
        divided = b.gradients + b.weights_trained + b.average + b.optimizer
        parts = (b.weights - b.weights_trained, divided, b.activations, b.peak)
        print(f"| {batch} | {' | '.join(f'{part / 2**30:.2f}' for part in parts)} |")


def rounds(
    ways: dict[str, Step], count: int, clock: Callable[[], float]
) -> Iterator[dict[str, float]]:
    """Seconds of a step of each way, round by round, each round in another order."""
    began, names = time.perf_counter(), list(ways)
    for index in range(count):
        if time.perf_counter() - began > TIME_LIMIT:
            return
        seconds = {}
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start = clock()
            ways[name](index)
            seconds[name] = clock() - start
        yield seconds


def _flops(step: Step) -> float:
    """FLOPs of a step; the CPU's fused attention has to be made known to torch's counter."""

    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q.shape, k.shape, v.shape)

    def backward(
        grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any
    ) -> int:
        return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)

    forward._get_raw = backward._get_raw = True  # type: ignore[attr-defined]  # tensors, not shapes
    known = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        step(0)
    return float(counter.get_total_flops())


def _cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def report_times(bench: Bench, count: int) -> None:
    batch, cuda = bench.batch, bench.pipe.device.type == "cuda"
    clock = _cuda_clock if cuda else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "ours": our_step(bench, Path(folder)),
            "uncached": our_step(bench, None),
            "plain": plain_step(bench),
        }
        for name, step in ways.items():  # the first step allocates
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            step(0)
            if cuda:
                peak = torch.cuda.max_memory_allocated() / 2**30
                print(f"peak memory, {name}: {peak:.2f} GiB, the other ways' nets included")
        measured = list(rounds(ways, count, clock))
        counted = _flops(ways["plain"]) / _flops(ways["ours"])
    kind = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"\nTimed on {kind}: {bench.pixels}x{bench.pixels}, widths {bench.size.widths}, batch "
        f"{batch}, {bench.precision}, {len(measured)} rounds; FLOPs allow a gain of {counted:.2f}"
    )
    for name in ways:
        seconds = torch.tensor([r[name] for r in measured])
        ratios = torch.tensor([r["plain"] / r[name] for r in measured])
        low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        print(
            f"  {name}: {batch / seconds.median().item():.2f} images/s, plain / {name} "
            f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})"
        )
    gain = torch.tensor([r["plain"] / r["ours"] for r in measured]).median().item()
    print(f"  gain reached / gain that FLOPs allow: {gain / counted:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--rounds", type=int, default=8, help="steps of each way")
    parser.add_argument(
        "--divide", type=int, choices=(1, 2, 4, 8), help="how much narrower the nets are (CPU: 8)"
    )
    parser.add_argument("--pixels", type=int, help="side of the pictures (CPU: 256, CUDA: 512)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--counts-only", action="store_true", help="time nothing")
    options = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    report_flops()
    report_bytes(4)
    report_bytes_of_sdxl()
    if not options.counts_only:
        precision = torch.bfloat16 if options.precision == "bf16" else torch.float32
        cuda = options.device.startswith("cuda")
        bench = make_bench(
            options.device,
            options.batch,
            precision,
            divide=options.divide or (1 if cuda else 8),
            pixels=options.pixels or (512 if cuda else 256),
        )
        report_times(bench, options.rounds)


if __name__ == "__main__":
    main()
