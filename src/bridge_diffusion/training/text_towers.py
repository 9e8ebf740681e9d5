"""Towers that give one feature vector a caption or a picture, around Hugging Face models."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    ChineseCLIPModel,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.reading import read_json, read_weights
from bridge_diffusion.text import families

PROJECTION_FILE = "projection.safetensors"
"""Beside an exported text encoder: what training needs of it and drawing does not."""
PROJECTION_KEY = "text_projection.weight"


class TextTower(nn.Module):
    """A text encoder with a linear projection of its pooled state.

    The pooled state is the encoder's own where it has one (CLIP: that of the end token), else the
    first token's hidden state (BERT, Chinese-CLIP).
    """

    def __init__(self, encoder: PreTrainedModel, features: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.projection = nn.Linear(width, features, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    @classmethod
    def from_folder(cls, folder: Path, features: int) -> Self:
        """A text encoder from a model folder, in float32.

        Its projection too, where the folder has one of this many features: that of Chinese-CLIP
        belongs to its own image tower, that of an earlier export to the one it was trained with.
        """
        tower = cls(families.FAMILIES[families.family_of(folder)](folder, torch.float32), features)
        projection = _stored_projection(folder)
        if projection is not None and projection.shape == tower.projection.weight.shape:
            tower.projection.weight.data.copy_(projection)
        return tower

    def forward(
        self, ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch features"]:
        return self.projection(pooled_state(self.encoder, ids, mask))


class ImageTower(nn.Module):
    """The picture side of a CLIP or Chinese-CLIP checkpoint: pixels => features."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PreTrainedModel, mean: list[float], std: list[float]) -> None:
        """`mean` and `std`: what the model expects pixels in 0..1 to be normalised by."""
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.size: int = getattr(model.config, "vision_config", model.config).image_size
        self.features: int = model.config.projection_dim
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.startswith(("vision_model.", "visual_projection.")))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """From a model folder; without a preprocessor_config.json pixels are read as -1..1."""
        model = _load(folder, _IMAGE_KINDS, "image tower")
        values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        if (folder / "preprocessor_config.json").is_file():
            values |= read_json(folder / "preprocessor_config.json")
        return cls(model, values["image_mean"], values["image_std"])

    @classmethod
    def new(cls) -> Self:
        """An untrained vision transformer (Radford et al. 2021, section 2.4) of 3 M parameters.

        It reads 64x64 pixels in squares of 8; weights come from the global random generator.
        """
        config = CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            projection_dim=256,
        )
        return cls(CLIPVisionModelWithProjection(config), [0.5] * 3, [0.5] * 3)

    def save_pretrained(self, folder: Path) -> None:
        """Write the whole checkpoint, so that `from_folder` reads it back."""
        self.model.save_pretrained(folder)
        values = {
            "image_mean": self.mean.flatten().tolist(),
            "image_std": self.std.flatten().tolist(),
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(values) + "\n", "utf-8")

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Float -1..1 of `size` x `size` pixels => features."""
        normalised = ((pixels + 1) / 2 - self.mean) / self.std
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(pixel_values=normalised).pooler_output
        return self.model(pixel_values=normalised).image_embeds


class TeacherTower(nn.Module):
    """A finished text encoder with its tokenizer: texts => features."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = getattr(model.config, "text_config", model.config)
        self.window = families.usable_positions(config)
        """Longest text that is read, in tokens; beyond it texts are cut."""

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """CLIP (the features of its joint space), a Stable Diffusion text encoder, or BERT-like.

        The tokenizer may lie in the folder or, as in a Stable Diffusion folder, beside it.
        """
        if read_json(folder / "config.json").get("model_type") in _TEACHER_KINDS:
            model = _load(folder, _TEACHER_KINDS, "teacher")
            family = "clip"
        else:
            family = families.family_of(folder)
            model = families.FAMILIES[family](folder, torch.float32)
        beside = folder.parent / "tokenizer"
        home = beside if beside.is_dir() and not families.has_tokenizer(folder) else folder
        return cls(model, families.load_tokenizer(home, family))

    @torch.no_grad()
    def forward(self, texts: list[str]) -> Float[Tensor, "batch features"]:
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.window, return_tensors="pt"
        ).to(device)
        if hasattr(self.model, "get_text_features"):
            return self.model.get_text_features(**tokens).pooler_output
        return pooled_state(self.model, tokens.input_ids, tokens.attention_mask.bool())


_IMAGE_KINDS: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPModel,
    "clip_vision_model": CLIPVisionModelWithProjection,
    "chinese_clip": ChineseCLIPModel,
}
_TEACHER_KINDS: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPModel,
    "clip_text_model": CLIPTextModel,
}


def pooled_state(
    encoder: PreTrainedModel, ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch width"]:
    """An encoder's own pooled output where it has one, else the first token's hidden state."""
    output = encoder(input_ids=ids, attention_mask=mask.long())
    pooled = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled


def _stored_projection(folder: Path) -> Tensor | None:
    own = folder / PROJECTION_FILE
    tensors = read_weights(own) if own.is_file() else families.read_tensors(folder)
    return tensors.get(PROJECTION_KEY)


def _load(folder: Path, kinds: dict[str, type[PreTrainedModel]], what: str) -> PreTrainedModel:
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in kinds:
        raise BridgeError(
            f"{folder} is of type {model_type!r} and no {what}; use one of {', '.join(kinds)}"
        )
    return families.load_complete(kinds[model_type], folder, torch.float32)
