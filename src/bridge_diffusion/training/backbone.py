"""The frozen backbone of a branch's training, by family: what it reads, and how it is called.

All that differs between Stable Diffusion 1.5 and XL in training is here. An English text is one
matrix of rows to everybody else, so that caches, prepared shards and batches are the same for both.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from jaxtyping import Float, Int
from torch import Tensor

from bridge_diffusion.data.store import module_hash
from bridge_diffusion.models.branch import DownResiduals, MidResidual
from bridge_diffusion.models.config import Family, family_of

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline


class Backbone:
    """The UNet and the text encoder of Stable Diffusion 1.5's family."""

    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Names of the text encoders in its pipeline."""
    reads_sizes: ClassVar[bool] = False
    """Whether it is told the size and the crop of each picture."""
    reads_pooled: ClassVar[bool] = False
    """Whether its branch reads a pooled vector of the native text."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts rows width"]:
        """What is to be kept of English texts: the states of their tokens, a row each."""
        return self.pipe.encode_prompt(list(texts), self.pipe.device, 1, False)[0]

    def text_identity(self) -> dict[str, Any]:
        """What `encode_texts` depends on. Plain JSON values."""
        return {
            "model": module_hash(self.pipe.text_encoder),
            "tokenizer": tokenizer_hash(self.pipe.tokenizer),
        }

    def run_identity(self) -> dict[str, Any]:
        """What else of the backbone must be the same when a run is continued. JSON values."""
        return {}

    def time_ids(
        self, sizes: Float[Tensor, "batch 4"] | None, latents: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch 6"] | None:
        """What backbone and branch are told of the pictures' sizes; None if nothing."""
        return None

    def predict(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        english: Float[Tensor, "batch rows width"],
        time_ids: Float[Tensor, "batch 6"] | None,
        residuals: tuple[DownResiduals, MidResidual],
    ) -> Float[Tensor, "batch channels height width"]:
        """The UNet's prediction with a branch's residuals; `english` as `encode_texts` gives it."""
        return self._unet(noisy, t, english, residuals)

    def _unet(
        self,
        noisy: Tensor,
        t: Tensor,
        states: Tensor,
        residuals: tuple[DownResiduals, MidResidual],
        added: dict[str, Tensor] | None = None,
    ) -> Tensor:
        unet: Any = self.pipe.unet
        down, mid = residuals
        return unet(
            noisy.to(unet.dtype),
            t,
            states.to(unet.dtype),
            down_block_additional_residuals=tuple(residual.to(unet.dtype) for residual in down),
            mid_block_additional_residual=mid.to(unet.dtype),
            added_cond_kwargs=added,
        ).sample


class SDXLBackbone(Backbone):
    """The UNet and both text encoders of SDXL's family (Podell et al. 2023, arXiv 2307.01952).

    Beside the states of the text it reads the larger encoder's pooled vector, and six numbers of
    each picture: its own height and width, what was cut off above and left of it, and the height
    and width that are trained on (section 2.2 there).
    """

    text_encoders = ("text_encoder", "text_encoder_2")
    reads_sizes = True
    reads_pooled = True

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts rows width"]:
        """The states of the tokens, a row each, then the pooled vector in a row of its own.

        The narrower ones are filled with zeros.
        """
        states, _, pooled, _ = self.pipe.encode_prompt(
            prompt=list(texts),
            device=self.pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        width = max(states.shape[-1], pooled.shape[-1])
        rows = (states, pooled[:, None])
        return torch.cat([F.pad(some, (0, width - some.shape[-1])) for some in rows], dim=1)

    def text_identity(self) -> dict[str, Any]:
        """Of both text encoders."""
        return super().text_identity() | {
            "model_2": module_hash(self.pipe.text_encoder_2),
            "tokenizer_2": tokenizer_hash(self.pipe.tokenizer_2),
        }

    def run_identity(self) -> dict[str, Any]:
        return {"english": self.text_identity()}

    def time_ids(
        self, sizes: Float[Tensor, "batch 4"] | None, latents: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch 6"]:
        """Original size, crop and target size of each picture, in pixels, as the pipeline's own."""
        assert sizes is not None
        target = [side * self.pipe.vae_scale_factor for side in latents.shape[-2:]]
        return torch.cat([sizes, sizes.new_tensor(target).expand(len(sizes), 2)], dim=1)

    def predict(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        english: Float[Tensor, "batch rows width"],
        time_ids: Float[Tensor, "batch 6"] | None,
        residuals: tuple[DownResiduals, MidResidual],
    ) -> Float[Tensor, "batch channels height width"]:
        assert time_ids is not None
        config = self.pipe.unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": english[:, -1, :pooled], "time_ids": time_ids}
        states = english[:, :-1, : config.cross_attention_dim]
        return self._unet(noisy, t, states, residuals, added)


_KINDS: dict[Family, type[Backbone]] = {"sd15": Backbone, "sdxl": SDXLBackbone}


def backbone_of(pipe: Any) -> Backbone:
    """The backbone of a stock pipeline, by the family of its UNet."""
    return _KINDS[family_of(pipe.unet)](pipe)


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of what a tokenizer makes of texts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = (
        json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    )
    return hashlib.sha256(text.encode()).hexdigest()
