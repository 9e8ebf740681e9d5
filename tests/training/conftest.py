"""A few captioned pictures, and a new bridge to the reference case's pipeline."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from colours import colour_folder, png
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from matrix.networks import make_parts, write_native_models
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


@pytest.fixture(scope="session")
def sdxl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL of real classes at tiny size, as a folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("sdxl") / "model"
    StableDiffusionXLPipeline(**make_parts("sdxl")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_native_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_native_models("sdxl", tmp_path_factory.mktemp("native"))


@pytest.fixture
def sdxl_pairs(tmp_path: Path) -> Path:
    folder = colour_folder(tmp_path / "pairs")
    (folder / "red.en.txt").write_text("on a beach", encoding="utf-8")
    (folder / "wide.png").write_bytes(png("black", (64, 24)))
    (folder / "wide.txt").write_text("黑色", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Ended:
    """How the processes of a launched run ended, by rank."""

    codes: list[int]
    """Exit codes; negative for a signal."""
    errors: list[str]
    """What each said of its failure."""
    results: list[dict[str, Any] | None]
    """Of each that succeeded: images, finished, loss, seen (pairs trained on), seconds."""


Launch = Callable[..., Ended]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """Runs the loop in several processes, each a real one: `launch(2, config, task=..., ...)`."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "launched.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def ask(processes: int, config: dict[str, Any], **asked: Any) -> Ended:
        line = {"processes": processes, "config": config, **asked}
        server.stdin.write(json.dumps(line, default=str) + "\n")
        server.stdin.flush()
        return Ended(**json.loads(server.stdout.readline()))

    yield ask
    server.stdin.close()
    server.wait()
    server.stdout.close()
