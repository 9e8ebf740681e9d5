"""Renderings of vendors' drawings with all that may befall a picture, for the evaluator.

Generated pictures are soft, a little off in colour and position, and never quite the drawing. So
the evaluator is trained on drawings that are moved, turned, bent, recoloured, blurred, reduced,
compressed and partly covered, on any background. Everything is drawn from one generator a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Generator, Tensor

from bridge_diffusion.evaluation.evaluator import SIDE
from bridge_diffusion.worlds.emoji.captions import colour_rgb, default_colours
from bridge_diffusion.worlds.emoji.sprites import Sprites


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """How strongly renderings are changed; 1 is what the evaluator is trained on."""

    strength: float = 1.0
    """Factor of rotation, bending, colour shifts, noise and the covered part."""
    softest: int = 20
    """Pixels to a side to which the picture is reduced (and enlarged again) at worst."""
    blur: float = 1.3
    """Standard deviation of the widest Gaussian blur, pixels."""
    jpeg_quality: int = 25
    """The worst JPEG quality."""


class Renderings:
    """Batches of changed renderings of some drawings: a batch is a function of a generator.

    Pictures are labelled by the index of what they show, or of whose drawing it is.
    """

    def __init__(
        self,
        vendors: Sequence[Sprites],
        codepoints: Sequence[str],
        label: Literal["concept", "vendor"] = "concept",
    ) -> None:
        self.label = label
        # Premultiplied, at two sizes: the small one keeps small emoji free of aliasing.
        self.large = torch.stack([_stack(sprites, codepoints, 64) for sprites in vendors])
        self.small = torch.stack([_stack(sprites, codepoints, 32) for sprites in vendors])
        self.colours = torch.tensor([colour_rgb(c) for c in default_colours()]) / 255.0

    def batch(
        self, count: int, generator: Generator, damage: Damage
    ) -> tuple[Float[Tensor, "count 3 64 64"], Int[Tensor, "count"]]:
        """Pixels in -1..1, and the label of each picture."""
        concepts = torch.randint(self.large.shape[1], (count,), generator=generator)
        vendors = torch.randint(self.large.shape[0], (count,), generator=generator)
        side, grid = _placement(count, generator, damage)
        layers = torch.empty(count, 4, SIDE, SIDE)
        for chosen, table in ((side >= 0.55, self.large), (side < 0.55, self.small)):
            drawings = table[vendors[chosen], concepts[chosen]].float() / 255
            layers[chosen] = F.grid_sample(drawings, grid[chosen], align_corners=False)
        behind = _backgrounds(count, self.colours, generator)
        x = layers[:, :3] + behind * (1 - layers[:, 3:])
        x = _recolour(x, generator, damage)
        x = _cover(x, generator, damage)
        x = _soften(x, generator, damage)
        x = x + 0.04 * damage.strength * _noise_levels(count, generator) * torch.randn(
            x.shape, generator=generator
        )
        labels = concepts if self.label == "concept" else vendors
        return _compress(x.clamp(0, 1), generator, damage) * 2 - 1, labels


def _stack(sprites: Sprites, codepoints: Sequence[str], side: int) -> Tensor:
    drawings = [np.asarray(sprites.picture(code, side).convert("RGBa")) for code in codepoints]
    return torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2).contiguous()


def _uniform(low: float, high: float, count: int, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _noise_levels(count: int, generator: Generator) -> Tensor:
    """Half of the pictures get none, the others up to 1."""
    return _uniform(-1, 1, count, generator).clamp(min=0)[:, None, None, None]


def _placement(count: int, generator: Generator, damage: Damage) -> tuple[Tensor, Tensor]:
    """The emoji's side as a part of the picture's, and where each pixel reads the drawing."""
    usual = torch.rand(count, generator=generator) < 0.5
    side = torch.where(
        usual, _uniform(0.62, 0.78, count, generator), _uniform(0.3, 1.0, count, generator)
    )
    room = (1 - side) / 2 + 0.04
    centre = torch.stack(
        [room * _uniform(-1, 1, count, generator) for _ in "xy"], dim=1
    )  # parts of the side, from the middle
    centre = torch.where((torch.rand(count, generator=generator) < 0.4)[:, None], 0.04, 1) * centre
    angle = _uniform(-0.2, 0.2, count, generator) * damage.strength
    stretch = 1 + _uniform(-0.08, 0.08, count, generator) * damage.strength
    cos, sin = angle.cos(), angle.sin()
    # Output coordinates (-1..1) => drawing coordinates: move, turn, then enlarge.
    matrix = torch.stack(
        [
            torch.stack([cos / side * stretch, sin / side * stretch], dim=1),
            torch.stack([-sin / side / stretch, cos / side / stretch], dim=1),
        ],
        dim=1,
    )
    offset = -matrix @ (2 * centre)[:, :, None]
    grid = F.affine_grid(torch.cat([matrix, offset], dim=2), [count, 4, SIDE, SIDE], False)
    bend = torch.randn(count, 2, 5, 5, generator=generator) * 0.05 * damage.strength
    bend = bend * _noise_levels(count, generator) / side[:, None, None, None]
    bend = F.interpolate(bend, size=SIDE, mode="bicubic", align_corners=True)
    return side, grid + bend.permute(0, 2, 3, 1)


def _backgrounds(count: int, colours: Tensor, generator: Generator) -> Tensor:
    """Default colours, any colours, gradients and clouds."""
    usual = torch.rand(count, generator=generator) < 0.5
    chosen = colours[torch.randint(len(colours), (count,), generator=generator)]
    base = torch.where(usual[:, None], chosen, torch.rand(count, 3, generator=generator))
    other = torch.rand(count, 3, generator=generator)
    graded = (torch.rand(count, generator=generator) < 0.2)[:, None, None, None]
    ramp = torch.linspace(0, 1, SIDE)[None, None, :, None] * graded
    flat, end = base[:, :, None, None], other[:, :, None, None]
    clouds = torch.randn(count, 3, 6, 6, generator=generator)
    clouds = F.interpolate(clouds, size=SIDE, mode="bilinear", align_corners=True)
    cloudy = (torch.rand(count, generator=generator) < 0.25)[:, None, None, None]
    level = _uniform(0, 0.25, count, generator)[:, None, None, None] * cloudy
    return (flat + (end - flat) * ramp + level * clouds).clamp(0, 1)


def _recolour(x: Tensor, generator: Generator, damage: Damage) -> Tensor:
    """A random colour matrix near the identity, contrast and brightness."""
    count = len(x)
    shift = 0.06 * damage.strength * torch.randn(count, 3, 3, generator=generator)
    matrix = torch.eye(3) * (1 + shift.mean(dim=(1, 2), keepdim=True)) + shift
    offset = 0.05 * damage.strength * torch.randn(count, 3, 1, 1, generator=generator)
    contrast = 1 + 0.15 * damage.strength * _uniform(-1, 1, count, generator)
    x = torch.einsum("bij,bjhw->bihw", matrix, x - 0.5) * contrast[:, None, None, None]
    return (x + 0.5 + offset).clamp(0, 1)


def _cover(x: Tensor, generator: Generator, damage: Damage) -> Tensor:
    """A rectangle of one colour over some pictures (DeVries & Taylor 2017)."""
    count = len(x)
    position = torch.arange(SIDE)
    inside = []
    for _ in "xy":
        half = _uniform(2, 3 + 7 * damage.strength, count, generator)
        centre = _uniform(0, SIDE, count, generator)
        inside.append((position[None] - centre[:, None]).abs() < half[:, None])
    covered = inside[0][:, None, None, :] & inside[1][:, None, :, None]
    covered &= (torch.rand(count, generator=generator) < 0.3)[:, None, None, None]
    return torch.where(covered, torch.rand(count, 3, 1, 1, generator=generator), x)


def _soften(x: Tensor, generator: Generator, damage: Damage) -> Tensor:
    """Reduce and enlarge a part of the batch, blur another: parts are random, so by position."""
    x = x.clone()
    eighth = max(1, len(x) // 8)
    for part, size in enumerate(torch.linspace(damage.softest, 48, 4).round().int().tolist()):
        piece = slice(part * eighth, (part + 1) * eighth)
        small = F.interpolate(x[piece], size=size, mode="bilinear", antialias=True)
        x[piece] = F.interpolate(small, size=SIDE, mode="bicubic")
    for part in (3, 4, 5):
        sigma = float(_uniform(0.3, damage.blur, 1, generator))
        piece = slice(part * eighth, (part + 1) * eighth)
        x[piece] = _blur(x[piece], sigma)
    return x.clamp(0, 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    offsets = torch.arange(-3, 4)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    x = F.conv2d(F.pad(x, (3, 3, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, 3, 3), mode="replicate"), kernel.mT, groups=3)


def _compress(x: Tensor, generator: Generator, damage: Damage) -> Tensor:
    """Every sixth picture through JPEG."""
    array = (x * 255).round().byte().permute(0, 2, 3, 1).numpy().copy()
    for i in range(0, len(array), 6):
        quality = int(torch.randint(damage.jpeg_quality, 90, (), generator=generator))
        stream = BytesIO()
        Image.fromarray(array[i]).save(stream, "JPEG", quality=quality)
        array[i] = np.asarray(Image.open(stream))
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
