"""Training a native text encoder: against pictures, or after another text encoder.

Contrastively, as CLIP (Radford et al. 2021, arXiv 2103.00020) and Chinese-CLIP (Yang et al. 2022,
arXiv 2211.01335) are: a caption's features shall be nearest to those of its own picture. With a
frozen ("locked") image tower this is LiT (Zhai et al. 2022, arXiv 2111.07991).

By distillation from parallel text (Reimers & Gurevych 2020, arXiv 2004.09813): a caption's
features shall be those that a finished encoder gives its translation.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bridge_diffusion.text import NativeTextEncoder, TextEncoding
from bridge_diffusion.text.native import check_fit
from bridge_diffusion.training.processes import ALONE, Processes
from bridge_diffusion.training.task import Batch
from bridge_diffusion.training.text_towers import (
    PROJECTION_FILE,
    PROJECTION_KEY,
    ImageTower,
    TextTower,
)

FIRST_LOGIT_SCALE = math.log(1 / 0.07)
"""Radford et al. 2021, section 2.5: the temperature starts at 0.07 ..."""
LARGEST_LOGIT_SCALE = math.log(100)
"""... and the logits are never scaled by more than 100."""

#: Batch index => targets (pixels or features) and one caption for each; a pure function.
Examples = Callable[[int], tuple[Shaped[Tensor, "batch ..."], Sequence[str]]]


def contrastive_loss(
    image_features: Float[Tensor, "batch features"],
    text_features: Float[Tensor, "batch features"],
    logit_scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over cosine similarities (Radford et al. 2021, figure 3).

    `logit_scale` is the logarithm of the factor. Pairs of one group (the same caption, say) are
    no negatives of each other: their similarities are left out.
    """
    logits = logit_scale.exp() * _cosines(text_features, image_features)
    target = torch.arange(len(logits), device=logits.device)
    if groups is not None:
        twins = (groups[:, None] == groups) & (target[:, None] != target)
        logits = logits.masked_fill(twins, -torch.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Pairs that are never trained on; their retrieval is reported with the export."""

    targets: Shaped[Tensor, "pairs ..."]
    """Pixels or features, as the examples give them."""
    captions: tuple[str, ...]
    """One for each."""


@torch.no_grad()
def retrieval(
    text_features: Float[Tensor, "pairs features"],
    target_features: Float[Tensor, "pairs features"],
    captions: Sequence[str],
) -> dict[str, float]:
    """Parts of the captions whose own target is the nearest ("top1"), or among the nearest five.

    The targets of equal captions all count as right.
    """
    nearest = _cosines(text_features, target_features).topk(min(5, len(captions))).indices
    groups = _groups(captions).to(nearest.device)
    right = groups[nearest] == groups[:, None]
    return {
        "pairs": len(captions),
        "top1": right[:, 0].float().mean().item(),
        "top5": right.any(dim=1).float().mean().item(),
    }


def _cosines(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Tensor:
    """Cosine similarities [n, m], in float32 also under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T


def _groups(captions: Sequence[str]) -> Int[Tensor, " captions"]:
    """Equal numbers for equal captions, in whichever batch and process they are."""
    digests = [hashlib.blake2b(caption.encode(), digest_size=8).digest() for caption in captions]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])


class ContrastiveObjective(nn.Module):
    """Captions against pictures."""

    def __init__(self, image_tower: nn.Module | None = None, processes: Processes = ALONE) -> None:
        """With an image tower targets are pixels; one that requires gradients is trained.

        Without one they are features that a frozen tower gave once. Captions are told from the
        pictures of all `processes`, not of their own batch alone.
        """
        super().__init__()
        self.processes = processes
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_LOGIT_SCALE))
        is_trained = image_tower is not None and any(
            p.requires_grad for p in image_tower.parameters()
        )
        self.image_tower = image_tower if is_trained else None
        # A frozen tower is no part of the module: checkpoints hold only what is trained.
        self._frozen = [image_tower.eval()] if image_tower is not None and not is_trained else []

    def target_features(self, targets: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch d"]:
        """Targets as the captions' features are compared with them."""
        if self.image_tower is not None:
            return self.image_tower(targets)
        for tower in self._frozen:
            targets = tower.to(targets.device)(targets)
        return targets

    def forward(
        self,
        text_features: Float[Tensor, "batch features"],
        targets: Shaped[Tensor, "batch ..."],
        groups: Int[Tensor, " batch"],
    ) -> dict[str, Tensor]:
        """The loss, and how many captions are nearest to their own picture in the batch."""
        images = self.processes.gathered(self.target_features(targets))
        text_features = self.processes.gathered(text_features)
        groups = self.processes.gathered(groups)
        scale = self.logit_scale.clamp(max=LARGEST_LOGIT_SCALE)
        with torch.no_grad():
            nearest = _cosines(text_features, images).argmax(dim=1)
        return {
            "loss": contrastive_loss(images, text_features, scale, groups),
            "accuracy_in_batch": (groups[nearest] == groups).float().mean(),
            "logit_scale": scale.exp(),
        }


class DistillationObjective(nn.Module):
    """Captions towards a teacher's features of their translations: mean squared error."""

    def target_features(self, targets: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Targets as the captions' features are compared with them."""
        return targets

    def forward(
        self,
        text_features: Float[Tensor, "batch features"],
        targets: Float[Tensor, "batch features"],
        groups: Int[Tensor, " batch"],
    ) -> dict[str, Tensor]:
        """The loss and the mean cosine."""
        text_features, targets = text_features.float(), targets.float()
        return {
            "loss": F.mse_loss(text_features, targets),
            "cosine": F.cosine_similarity(text_features, targets).mean(),
        }


class TextEncoderTask:
    """Trains a text tower towards an objective; exports what `NativeTextEncoder` reads."""

    def __init__(
        self,
        tower: TextTower,
        tokenizer: Any,
        encoding: TextEncoding,
        examples: Examples,
        objective: ContrastiveObjective | DistillationObjective,
        *,
        held_out: HeldOut | None = None,
        export_dtype: torch.dtype = torch.float32,
    ) -> None:
        """`encoding` is how the encoder will be used; captions are cut to one of its windows.

        What of `objective` requires gradients is trained with the tower. `export_dtype`: precision
        of the exported text encoder. Raises `BridgeError` where encoding, tokenizer and encoder
        do not fit together.
        """
        check_fit(tower.encoder, tokenizer, encoding)
        self.tower, self.tokenizer, self.encoding = tower, tokenizer, encoding
        self.examples, self.objective, self.held_out = examples, objective, held_out
        self.export_dtype = export_dtype
        self._module = nn.ModuleDict({"text": tower, "objective": objective})

    @property
    def module(self) -> nn.Module:
        return self._module

    def batch(self, index: int) -> Batch:
        targets, captions = self.examples(index)
        return {"targets": targets, "groups": _groups(captions), **self._tokens(captions)}

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        features = self.tower(batch["ids"], batch["mask"])
        return self.objective(features, batch["targets"], batch["groups"])

    def samples(self) -> Image.Image | None:
        return None

    def export(self, folder: Path) -> None:
        """The text encoder as `NativeTextEncoder.from_pretrained` reads it.

        Beside it the projection (so that training may go on from here), a trained image tower,
        and, with held-out pairs, their retrieval in `retrieval.json`.
        """
        encoder = copy.deepcopy(self.tower.encoder).to("cpu", self.export_dtype)
        NativeTextEncoder(encoder, self.tokenizer, self.encoding).save_pretrained(folder)
        projection = self.tower.projection.weight.detach().cpu().contiguous()
        save_file({PROJECTION_KEY: projection}, folder / PROJECTION_FILE)
        tower = getattr(self.objective, "image_tower", None)
        if isinstance(tower, ImageTower):  # a trained one
            tower.save_pretrained(folder / "image_tower")
        if self.held_out is not None:
            text = json.dumps(self.evaluate(self.held_out), indent=2)
            (folder / "retrieval.json").write_text(text + "\n", encoding="utf-8")

    @torch.no_grad()
    def evaluate(self, held_out: HeldOut, *, at_once: int = 256) -> dict[str, float]:
        """Retrieval of held-out pairs with the weights as they are."""
        device = self.tower.projection.weight.device
        texts, targets = [], []
        for first in range(0, len(held_out.captions), at_once):
            part = slice(first, first + at_once)
            tokens = self._tokens(held_out.captions[part])
            texts.append(self.tower(tokens["ids"].to(device), tokens["mask"].to(device)))
            targets.append(self.objective.target_features(held_out.targets[part].to(device)))
        return retrieval(torch.cat(texts), torch.cat(targets), held_out.captions)

    def _tokens(self, captions: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.encoding.window,
            return_tensors="pt",
        )
        return {"ids": tokens.input_ids, "mask": tokens.attention_mask.bool()}
