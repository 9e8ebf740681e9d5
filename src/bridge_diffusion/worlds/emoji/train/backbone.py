"""The English world's UNet, and the Stable Diffusion folder it ends up in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.data.pixels import pixel_batch
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.attention import prefer_plain_attention
from bridge_diffusion.training.grid import numbered_grid
from bridge_diffusion.training.seeds import draw_each
from bridge_diffusion.training.task import Batch

# Stable Diffusion's schedule, but noisier at its end: a 16x16 latent holds its mean colour with
# less noise than a 64x64 one, and with beta_end 0.012 the background would shine through at the
# last timestep, so that sampling from pure noise starts where training never was. Velocity
# (Salimans & Ho 2022, section 4) rather than noise is predicted: an error in the picture weighs
# SNR in the loss of noise and SNR + 1 in that of velocity, so what the prompt decides, at high
# noise, is learnt at once.
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedScenes:
    """Latents and text states of a dataset, computed once before training."""

    latents: Float[Tensor, "scenes 4 height width"]
    """Scaled to unit variance, float16."""
    caption_of: Int[Tensor, "scenes"]
    """Row of `states` that belongs to each scene."""
    states: Float[Tensor, "captions tokens width"]
    """Last hidden state of each distinct caption, float16; row 0 is the empty prompt."""

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        save_file({name: getattr(self, name).contiguous() for name in self.__slots__}, partial)
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> "EncodedScenes":
        return cls(**load_file(path))

    @classmethod
    def cached(cls, path: Path, make: Callable[[], "EncodedScenes"]) -> "EncodedScenes":
        """What an earlier call made and saved there, or what is made now.

        `path` has to name all that decides the scenes, so that stale ones are never read.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make().save(path)
        return cls.load(path)

    def joined(self, other: "EncodedScenes") -> "EncodedScenes":
        """These scenes, and then the others."""
        return EncodedScenes(
            latents=torch.cat([self.latents, other.latents]),
            caption_of=torch.cat([self.caption_of, other.caption_of + len(self.states)]),
            states=torch.cat([self.states, other.states]),
        )

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        data: PairDataset,
        vae: AutoencoderTiny,
        read: Callable[[Sequence[str]], Float[Tensor, "texts tokens width"]],
        batch_size: int = 128,
    ) -> "EncodedScenes":
        """Encode every pair on the device of the nets, each different caption once.

        `data`: pictures of one size; of each pair the first caption is taken. `read`: texts => the
        states that the UNet reads, such as those of `clip_reader`.
        """
        device = next(vae.parameters()).device
        vae.to(memory_format=torch.channels_last)
        latents: list[Tensor] = []
        captions: list[str] = []
        for first in range(0, len(data), batch_size):
            pairs = [data[i] for i in range(first, min(first + batch_size, len(data)))]
            x = pixel_batch([pair.image for pair in pairs])
            x = x.to(device, memory_format=torch.channels_last)
            latents.append(vae.encode(x).latents * vae.config.scaling_factor)
            captions += [pair.captions[0] for pair in pairs]
        vae.to(memory_format=torch.contiguous_format)  # else it could not be saved
        return cls.of(torch.cat(latents), captions, read, batch_size)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        latents: Float[Tensor, "scenes 4 height width"],
        captions: Sequence[str],
        read: Callable[[Sequence[str]], Float[Tensor, "texts tokens width"]],
        batch_size: int = 128,
    ) -> "EncodedScenes":
        """Latents of unit variance and the caption of each, every different one read once."""
        rows: dict[str, int] = {"": 0}
        caption_of = [rows.setdefault(caption, len(rows)) for caption in captions]
        texts = list(rows)
        states = [
            read(texts[first : first + batch_size]).half().cpu()
            for first in range(0, len(texts), batch_size)
        ]
        return cls(
            latents=latents.half().cpu(),
            caption_of=torch.tensor(caption_of),
            states=torch.cat(states),
        )


def clip_reader(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> Callable[[Sequence[str]], Float[Tensor, "texts tokens width"]]:
    """Texts => CLIP's last hidden states, as a stock pipeline reads a prompt."""

    def read(texts: Sequence[str]) -> Float[Tensor, "texts tokens width"]:
        tokens = tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return text_encoder(tokens.to(text_encoder.device))[0]

    return read


class BackboneTask:
    """Velocity prediction, a caption dropped now and then (Ho & Salimans 2022, algorithm 1).

    Left alone, a UNet of this size reads text in its decoder only, and its encoder, which a bridge
    copies and whose features a bridge adds to, comes to know nothing of the prompt. So the caption
    is often dropped for the decoder alone: what it says has to come through the encoder then.
    """

    caption_dropout = 0.1
    decoder_caption_dropout = 0.7
    sample_steps = 20

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scenes: EncodedScenes,
        *,
        pipeline_parts: dict[str, nn.Module],
        prompts: Sequence[str],
        batch_size: int,
        seed: int,
        device: str,
    ):
        self.unet, self.scenes, self.prompts = unet, scenes, prompts
        self.parts = pipeline_parts
        self.batch_size, self.seed = batch_size, seed
        self.scheduler = DDPMScheduler(**SCHEDULE)
        prefer_plain_attention(unet, latent_side=unet.config.sample_size, device=device)

    @property
    def module(self) -> nn.Module:
        return self.unet

    def batch(self, index: int) -> Batch:
        random = np.random.default_rng((self.seed, index))
        chosen = torch.from_numpy(random.integers(len(self.scenes.latents), size=self.batch_size))
        captions = self.scenes.caption_of[chosen]
        dropped = torch.from_numpy(random.random(self.batch_size))
        captions = torch.where(dropped < self.caption_dropout, 0, captions)
        dropped = torch.from_numpy(random.random(self.batch_size))
        decoder_captions = torch.where(dropped < self.decoder_caption_dropout, 0, captions)
        return {
            "scene": chosen,
            "latents": self.scenes.latents[chosen],
            "states": self.scenes.states[captions],
            "decoder_states": self.scenes.states[decoder_captions],
        }

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        z = batch["latents"].float().to(memory_format=torch.channels_last)
        noise = draw_each(generators, lambda g: torch.randn(z.shape[1:], generator=g)).to(z)
        steps = self.scheduler.config.num_train_timesteps
        t = draw_each(generators, lambda g: torch.randint(steps, (), generator=g)).to(z.device)
        noisy = self.scheduler.add_noise(z, noise, t)
        predicted = self.predict(noisy, t, batch)
        target = self.scheduler.get_velocity(z, noise, t)
        return {"loss": (predicted.float() - target).pow(2).mean()}

    def predict(
        self,
        noisy: Float[Tensor, "batch 4 height width"],
        t: Int[Tensor, "batch"],
        batch: Batch,
    ) -> Float[Tensor, "batch 4 height width"]:
        """The velocity that the network tells for noisy latents."""
        with decoder_reading(self.unet, batch["decoder_states"].float()):
            return self.unet(noisy, t, batch["states"].float()).sample

    def pipeline(self) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            unet=self.unet,
            scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **self.parts,
        )

    def samples(self) -> Image.Image | None:
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(self.prompts))]
        images = pipeline(
            list(self.prompts),
            num_inference_steps=self.sample_steps,
            guidance_scale=4.0,
            generator=generators,
        ).images
        return numbered_grid(images)

    def export(self, folder: Path) -> None:
        self.pipeline().save_pretrained(folder)


@contextmanager
def decoder_reading(
    unet: UNet2DConditionModel, states: Float[Tensor, "batch tokens width"]
) -> Iterator[None]:
    """Inside, the decoder reads `states`, while encoder and mid block read what a call says."""

    def swap(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "encoder_hidden_states" in kwargs:  # blocks without attention take none
            kwargs = {**kwargs, "encoder_hidden_states": states}
        return args, kwargs

    hooks = [block.register_forward_pre_hook(swap, with_kwargs=True) for block in unet.up_blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def new_unet(
    widths: tuple[int, ...], *, layers: int, text_width: int, latent_size: int
) -> UNet2DConditionModel:
    """An untrained UNet with attention at every level, but for the decoder's finest.

    Stable Diffusion 1.5 has it at the finest too. There it matters most for a bridge: the residuals
    of the branch, a copy of the encoder, go straight to the last block and can say what the decoder
    never drew, while those of a level without attention know nothing of the prompt. The decoder's
    finest level is left without: there attention takes a third of a step's time.
    """
    lower = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * lower + ("UpBlock2D",),
        cross_attention_dim=text_width,
        attention_head_dim=(2,) + (4,) * lower,  # the number of heads, whatever diffusers calls it
        norm_num_groups=16,
    )


def continued_unet(new: UNet2DConditionModel, folder: Path) -> UNet2DConditionModel:
    """`new` with the weights of a pipeline folder's UNet, which may have had less attention.

    Attention layers that the older UNet lacks are left as they are but for their last projection,
    which becomes zero: the two predict the same until training goes on.

    Raises:
        BridgeError: the folder's UNet is not readable, or differs in more than attention layers.
    """
    try:
        older = UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", torch_dtype=torch.float32
        ).state_dict()
    except OSError as error:
        raise BridgeError(
            f"no UNet can be read in {folder}: give a pipeline folder, such as unet/export of "
            "another build"
        ) from error
    weights = new.state_dict()
    added = [name for name in weights if name not in older and ".attentions." in name]
    unlike = [
        name
        for name in sorted({*weights, *older} - set(added))
        if name not in weights or name not in older or weights[name].shape != older[name].shape
    ]
    if unlike:
        raise BridgeError(
            f"the UNet in {folder} is of another layout than the recipe's: {len(unlike)} weights "
            f"differ, {unlike[0]!r} first; give one that this recipe trained"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            if name in older:
                weight.copy_(older[name])
            elif name.rpartition(".")[0].endswith("proj_out"):
                weight.zero_()
    return new
