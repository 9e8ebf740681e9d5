"""A tiny Stable Diffusion model, a tiny Chinese-CLIP and a few captioned pictures."""

import json
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

WEIGHTS = Path(__file__).parents[1] / "golden" / "case-a-sd15" / "weights"
PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
COLOURS = {"红色": "red", "绿色": "green", "蓝色": "blue", "黄色": "yellow", "白色": "white"}


@dataclass(frozen=True)
class Colours:
    """One plain picture a colour, with two captions each."""

    size: int = 32
    broken: int | None = None

    def __len__(self) -> int:
        return len(COLOURS)

    def __getitem__(self, index: int) -> Pair:
        name, colour = list(COLOURS.items())[index]
        if index == self.broken:
            raise UnreadablePicture(colour, "truncated")
        image = Image.new("RGB", (self.size, self.size), colour)
        return Pair(image=image, captions=(name, f"{name}的图"), key=colour)


@pytest.fixture
def make_colours() -> Callable[..., Colours]:
    return Colours


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, reference_weights: Path) -> Path:
    """The reference case's parts as one ordinary pipeline folder."""
    folder = tmp_path_factory.mktemp("model")
    for part in PARTS:
        (folder / part).symlink_to(reference_weights / part)
    index = {"_class_name": "StableDiffusionPipeline", **PARTS}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference case's native text encoder with its tokenizer in one folder."""
    folder = tmp_path_factory.mktemp("text")
    for part in ("native_text_encoder", "native_tokenizer"):
        for file in (WEIGHTS / part).iterdir():
            (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture
def pipe(model_folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        model_folder, safety_checker=None, requires_safety_checker=False
    )


@pytest.fixture
def new_bridge(pipe: StableDiffusionPipeline, text_folder: Path) -> Callable[[], Bridge]:
    def make() -> Bridge:
        text = NativeTextEncoder.from_pretrained(text_folder)
        generator = torch.Generator().manual_seed(0)
        branch = BridgeBranch.from_backbone(pipe.unet, text.width, generator=generator)
        config = BridgeConfig(family="sd15", text_encoding=text.encoding, native_width=text.width)
        return Bridge(branch, text, config)

    return make
