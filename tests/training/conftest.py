"""A few captioned pictures, and a new bridge to the reference case's pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.pairs import Pair, UnreadablePicture
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.models.config import BridgeConfig
from bridge_diffusion.text import NativeTextEncoder

COLOURS = {"红色": "red", "绿色": "green", "蓝色": "blue", "黄色": "yellow", "白色": "white"}


@dataclass(frozen=True)
class Colours:
    """One plain picture a colour, with two captions each, and an English text for every other."""

    size: int = 32
    broken: int | None = None

    def __len__(self) -> int:
        return len(COLOURS)

    def __getitem__(self, index: int) -> Pair:
        name, colour = list(COLOURS.items())[index]
        if index == self.broken:
            raise UnreadablePicture(colour, "truncated")
        image = Image.new("RGB", (self.size, self.size), colour)
        english = "" if index % 2 else colour
        return Pair(image=image, captions=(name, f"{name}的图"), key=colour, english=english)


@pytest.fixture
def make_colours() -> Callable[..., Colours]:
    return Colours


@pytest.fixture
def new_bridge(pipe: StableDiffusionPipeline, chinese_clip_folder: Path) -> Callable[[], Bridge]:
    def make() -> Bridge:
        text = NativeTextEncoder.from_pretrained(chinese_clip_folder)
        generator = torch.Generator().manual_seed(0)
        branch = BridgeBranch.from_backbone(pipe.unet, text.width, generator=generator)
        config = BridgeConfig(family="sd15", text_encoding=text.encoding, native_width=text.width)
        return Bridge(branch, text, config)

    return make
