"""The independent evaluator: which of the world's concepts does a picture show?

A small image-text model; another one, smaller still, tells in which style a picture is drawn. The
image tower is a stock ResNet; the text side is one learned feature for each name, of a concept or
of a style. Both are trained on vendors' drawings only (`worlds.emoji.train`), never on generated
pictures, and share nothing with the models that they judge.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from bridge_diffusion.data.pixels import pixel_batch
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.paths import evaluator_folder, style_evaluator_folder

FORMAT_VERSION = 1
SIDE = 64
"""Side of the pictures that the evaluator looks at, pixels."""

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatorConfig:
    """Layout of the evaluator, and what its rows of text features stand for."""

    concepts: tuple[str, ...]
    """Code points of the concepts (or names of styles), one for each row of text features."""
    feature_width: int = 128
    """Width of the features that pictures and texts share."""
    stem_width: int = 24
    """Channels after the first convolution."""
    widths: tuple[int, ...] = (64, 128, 208)
    """Channels of the ResNet's stages."""
    depths: tuple[int, ...] = (1, 2, 1)
    """Residual blocks of the ResNet's stages."""


class ImageTextEvaluator(nn.Module):
    """Cosine similarity of a picture's feature with those of all concepts' texts."""

    def __init__(self, config: EvaluatorConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = ResNetModel(
            ResNetConfig(
                embedding_size=config.stem_width,
                hidden_sizes=list(config.widths),
                depths=list(config.depths),
                layer_type="basic",
            )
        )
        self.projection = nn.Linear(config.widths[-1], config.feature_width)
        self.texts = nn.Parameter(torch.randn(len(config.concepts), config.feature_width))
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.row = {code: row for row, code in enumerate(config.concepts)}
        """By code points: which row of text features, and of scores, a concept has."""

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch concepts"]:
        """Logits of all concepts for pictures in -1..1, 64 x 64 pixels."""
        pooled = self.tower(pixels).pooler_output.flatten(1)
        pictures = F.normalize(self.projection(pooled).float(), dim=-1)
        return self.log_scale.exp() * pictures @ F.normalize(self.texts, dim=-1).T

    @torch.no_grad()
    def scores(
        self, pictures: Sequence[Image.Image], batch_size: int = 256
    ) -> Float[Tensor, "pictures concepts"]:
        """Logits of all concepts for pictures of any size, on the CPU in float32."""
        assert not self.training, "scores need the evaluation mode of the batch norms"
        batches = [
            self(evaluator_pixels(pictures[first : first + batch_size]).to(self.texts.device)).cpu()
            for first in range(0, len(pictures), batch_size)
        ]
        return torch.cat(batches) if batches else torch.empty(0, len(self.config.concepts))

    def save(self, folder: Path, details: dict[str, Any]) -> None:
        """Write float16 weights and the configuration; `details` say how it was trained."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.state_dict().items()
        }
        save_file(state, folder / _WEIGHTS)
        config = self.config
        document = {
            "format_version": FORMAT_VERSION,
            "feature_width": config.feature_width,
            "stem_width": config.stem_width,
            "widths": list(config.widths),
            "depths": list(config.depths),
            **details,
            "concepts": list(config.concepts),
        }
        text = json.dumps(document, ensure_ascii=False, indent=1)
        (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedEvaluator:
    """An evaluator ready to score, with what it measured on itself."""

    model: ImageTextEvaluator
    """In evaluation mode, float32."""
    accuracy: dict[str, Any]
    """Its own retrieval accuracy on held-out renderings, as written after its training."""


def load_evaluator(folder: Path | None = None) -> LoadedEvaluator:
    """The evaluator of a folder; the one shipped with the emoji world by default.

    Raises:
        BridgeError: a file is missing, not readable, or of another format.
    """
    folder = evaluator_folder() if folder is None else folder
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise BridgeError(
                f"no evaluator in {folder}: {name} is missing; "
                "give a folder that training the evaluator exported"
            )
    try:
        document = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        state = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise BridgeError(f"the evaluator in {folder} is not readable: {error}") from error
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise BridgeError(
            f"the evaluator in {folder} has format {version}; this program reads {FORMAT_VERSION}"
        )
    try:
        config = EvaluatorConfig(
            concepts=tuple(document["concepts"]),
            feature_width=document["feature_width"],
            stem_width=document["stem_width"],
            widths=tuple(document["widths"]),
            depths=tuple(document["depths"]),
        )
        model = ImageTextEvaluator(config)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BridgeError(
            f"the weights and the configuration of {folder} do not fit ({reason}); get both again"
        ) from error
    return LoadedEvaluator(model=model.float().eval(), accuracy=document.get("accuracy", {}))


def load_style_evaluator(folder: Path | None = None) -> LoadedEvaluator:
    """The evaluator of styles of a folder; the shipped one by default.

    Raises:
        BridgeError: a file is missing, not readable, or of another format.
    """
    return load_evaluator(style_evaluator_folder() if folder is None else folder)


def evaluator_pixels(pictures: Sequence[Image.Image]) -> Float[Tensor, "batch 3 64 64"]:
    """Pictures of any mode and size, uint8 0..255 => float -1..1, resized to 64 x 64 pixels."""
    fitting = []
    for picture in pictures:
        picture = picture.convert("RGB")
        if picture.size != (SIDE, SIDE):
            picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        fitting.append(picture)
    return pixel_batch(fitting)
