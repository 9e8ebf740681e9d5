"""The reference case's bridge, a small evaluator, real drawings."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.evaluation.evaluator import (
    EvaluatorConfig,
    ImageTextEvaluator,
    LoadedEvaluator,
)
from bridge_diffusion.worlds.emoji.concepts import Concept, find_concept
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS
from bridge_diffusion.worlds.emoji.plugins.tasks import LoraTask, new_controlnet
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.styles import STYLES
from bridge_diffusion.worlds.emoji.train.backbone import EncodedScenes


@pytest.fixture
def bridge(new_release_bridge: Callable[[], Bridge]) -> Bridge:
    return new_release_bridge()


@pytest.fixture
def other_bridge(new_release_bridge: Callable[[], Bridge]) -> Bridge:
    return new_release_bridge()


@pytest.fixture(scope="session")
def drawings() -> Sprites:
    return Sprites.shipped("noto")


@pytest.fixture
def untrained() -> Callable[[Sequence[Concept]], LoadedEvaluator]:
    """An evaluator of some concepts, with drawn weights."""

    def make(concepts: Sequence[Concept]) -> LoadedEvaluator:
        return untrained_of(tuple(concept.codepoints for concept in concepts))

    return make


@pytest.fixture
def styles() -> LoadedEvaluator:
    """An evaluator of styles, with drawn weights."""
    return untrained_of(STYLES)


def untrained_of(names: tuple[str, ...]) -> LoadedEvaluator:
    torch.manual_seed(0)
    # Of at least 8 channels: oneDNN's backward pass of a strided 1x1 convolution with fewer writes
    # beyond its memory on processors without AVX-512 (torch 2.13.0, channels last).
    config = EvaluatorConfig(
        concepts=names, feature_width=8, stem_width=8, widths=(8, 16), depths=(1, 1)
    )
    return LoadedEvaluator(model=ImageTextEvaluator(config).eval(), accuracy={})


@pytest.fixture(scope="session")
def concepts() -> tuple[Concept, ...]:
    """Two literal probes, the second without a Chinese synonym, and two shared concepts."""
    return tuple(find_concept(name) for name in ("red envelope", "white flower", "dog", "lime"))


@pytest.fixture
def plugins(pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """All plug-ins of the emoji world for the reference case, with drawn weights."""
    torch.manual_seed(0)
    root = tmp_path / "plugins"
    for plugin in PLUGINS:
        folder = root / plugin.name / "export"
        folder.mkdir(parents=True)
        if plugin.kind == "checkpoint":
            changed = copy.deepcopy(pipe.unet)
            _stir(changed.parameters(), 0.02)
            changed.save_pretrained(folder / "unet")
        elif plugin.kind == "lora":
            _export_lora(pipe, plugin.file, folder)
        elif plugin.kind == "controlnet":
            net = new_controlnet(pipe)
            _stir(net.parameters(), 0.1)
            net.save_pretrained(folder)
        else:
            width = pipe.text_encoder.config.hidden_size
            save_file({"<thing>": torch.randn(2, width)}, folder / plugin.file)
    return root


def _stir(weights: Iterable[Tensor], deviation: float) -> None:
    with torch.no_grad():
        for weight in weights:
            weight.add_(deviation * torch.randn(weight.shape))


def _export_lora(pipe: StableDiffusionPipeline, file: str, folder: Path) -> None:
    """As the task exports it, of a UNet of its own."""
    parts = {**pipe.components, "unet": copy.deepcopy(pipe.unet)}
    twin = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    one = torch.zeros(1)
    scenes = EncodedScenes(latents=one, caption_of=one.long(), states=one)
    kohya = None if file == "pytorch_lora_weights.safetensors" else file
    common = {"prompts": (), "batch_size": 1, "seed": 0}
    task = LoraTask(twin, scenes, rank=2, kohya_file=kohya, **common)
    _stir((w for n, w in task.unet.named_parameters() if "lora_B" in n), 0.5)
    task.export(folder)
