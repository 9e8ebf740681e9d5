"""Training a bridge's branch: noise prediction, end to end, through a frozen backbone.

Bridge Diffusion Model, arXiv 2309.00952, section 3: the branch and the backbone see the same noisy
latents and timestep, the branch reads the native caption, the backbone reads "". The loss is that
of ordinary noise prediction (Ho et al. 2020, equation 14); its gradient reaches the branch through
the backbone's mid block output and decoder.

The backbone's encoder costs no backward pass and keeps no activations: none of its weights
requires a gradient, nor do its inputs, so autograd records nothing before the first residual of
the branch is added. No switch is needed for that.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.config import family_of
from bridge_diffusion.training.attention import prefer_plain_attention
from bridge_diffusion.training.examples import Examples, encode_backbone_texts
from bridge_diffusion.training.grid import numbered_grid
from bridge_diffusion.training.loop import Batch
from bridge_diffusion.training.order import Order, ShuffledOrder

_PICTURES_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchOptions:
    """What is particular to training a branch."""

    batch_size: int
    """Images of a batch; the loop's own."""
    seed: int = 0
    """Seed of the order, of the captions drawn and of the captions dropped."""
    caption_dropout: float = 0.1
    """Part of the images whose caption is "", for classifier-free guidance (Ho & Salimans 2022)."""
    min_snr_gamma: float | None = None
    """Limit of the signal-to-noise ratio in the loss (Hang et al. 2023); None: no weighting."""
    timestep_logit_mean: float | None = None
    """Draw timesteps with a normal logit of t/T of this mean and deviation 1, which is more of the
    noisy ones if it is above 0 (Esser et al. 2024, section 3.1); None: uniformly."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    export_precision: Literal["fp16", "fp32"] = "fp16"
    """Precision of the exported branch."""
    sample_prompts: tuple[str, ...] = ()
    """Native prompts of the sample grid; none: no grid."""
    sample_steps: int = 20
    """Sampler steps of the sample grid."""
    sample_guidance: float = 7.5
    """Guidance scale of the sample grid."""

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout < 1:
            raise BridgeError(
                f"caption_dropout is {self.caption_dropout}, it must be from 0 to below 1"
            )
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise BridgeError(f"min_snr_gamma is {self.min_snr_gamma}, it must be above 0, or None")


class BranchTask:
    """Trains `bridge.branch` beside the frozen UNet of a stock pipeline."""

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        bridge: Bridge,
        examples: Examples,
        options: BranchOptions,
        *,
        order: Order | None = None,
        device: str = "cpu",
    ) -> None:
        """`pipe` and `bridge` are moved to `device`; the backbone's weights are frozen.

        order: which pairs a batch has; every pair comes once an epoch if none is given.

        BridgeError for a backbone that does not predict noise or velocity, or of the SDXL family.
        """
        if family_of(pipe.unet) != "sd15":
            raise BridgeError(
                "the backbone is of the SDXL family; training knows the Stable Diffusion 1.5 one"
            )
        self.pipe, self.bridge, self.examples, self.options = pipe, bridge, examples, options
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        if self.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise BridgeError(
                f"the backbone predicts {self.scheduler.config.prediction_type!r}; training knows "
                "'epsilon' and 'v_prediction'"
            )
        self._order: Order = order or ShuffledOrder(
            len(examples),
            batch_size=options.batch_size,
            caption_dropout=options.caption_dropout,
            seed=options.seed,
        )
        pipe.to(device)
        bridge.branch.to(device)
        bridge.text_encoder.to(device)
        pipe.unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        pipe.set_progress_bar_config(disable=True)
        for net in (pipe.unet, bridge.branch):
            prefer_plain_attention(net, latent_side=pipe.unet.config.sample_size, device=device)
        if options.gradient_checkpointing:
            bridge.branch.enable_gradient_checkpointing()
            pipe.unet.enable_gradient_checkpointing()
        self._english = encode_backbone_texts(pipe, [""])

    @property
    def module(self) -> nn.Module:
        return self.bridge.branch

    def batch(self, index: int) -> Batch:
        return self.examples.batch(self._order.batch(index))

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction; "unweighted" is the same without min-SNR."""
        encoded = self.examples.encoded(batch)
        z = encoded.latents
        noise = torch.randn(z.shape, generator=generator).to(z)
        t = self._timesteps(len(z), generator).to(z.device)
        noisy = self.scheduler.add_noise(z, noise, t)
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(z, noise, t)
        residuals = self.bridge.branch(noisy, t, encoded.states, encoded.mask)
        english = self._english if encoded.english is None else encoded.english
        predicted = self._backbone(noisy, t, english, *residuals)
        errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        return {"loss": (errors * self._weights(t)).mean(), "unweighted": errors.mean()}

    def samples(self) -> Image.Image | None:
        """The sample prompts drawn with the stock pipeline, picture i from seed i."""
        prompts, scheduler = self.options.sample_prompts, self.pipe.scheduler
        pictures: list[Image.Image] = []
        self.bridge.attach(self.pipe)
        try:
            for first in range(0, len(prompts), _PICTURES_AT_ONCE):
                some = prompts[first : first + _PICTURES_AT_ONCE]
                seeds = range(first, first + len(some))
                self.pipe.scheduler = self.bridge.scheduler_for(self.pipe)
                pictures += self.pipe(
                    **self.bridge.prompt(some),
                    num_inference_steps=self.options.sample_steps,
                    guidance_scale=self.options.sample_guidance,
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                ).images
        finally:
            self.bridge.detach()
            self.pipe.scheduler = scheduler
        return numbered_grid(pictures) if pictures else None

    def export(self, folder: Path) -> None:
        """The whole bridge, as `Bridge.from_pretrained` reads it."""
        branch = self.bridge.branch
        if self.options.export_precision == "fp16":
            branch = copy.deepcopy(branch).half()
        Bridge(branch, self.bridge.text_encoder, self.bridge.config).save_pretrained(folder)

    def _timesteps(self, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Timesteps 0..T-1."""
        steps = self.scheduler.config.num_train_timesteps
        if self.options.timestep_logit_mean is None:
            return torch.randint(steps, (count,), generator=generator)
        logits = self.options.timestep_logit_mean + torch.randn(count, generator=generator)
        return (logits.sigmoid() * steps).long().clamp(max=steps - 1)

    def _backbone(
        self,
        noisy: Tensor,
        t: Int[Tensor, " batch"],
        english: Float[Tensor, "... tokens width"],
        down: tuple[Tensor, ...],
        mid: Tensor,
    ) -> Float[Tensor, "batch channels height width"]:
        unet: Any = self.pipe.unet
        return unet(
            noisy.to(unet.dtype),
            t,
            english.to(unet.dtype).expand(len(noisy), -1, -1),
            down_block_additional_residuals=tuple(residual.to(unet.dtype) for residual in down),
            mid_block_additional_residual=mid.to(unet.dtype),
        ).sample

    def _weights(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"] | float:
        """Min-SNR weights (Hang et al. 2023, equation 8, and appendix for velocity)."""
        if self.options.min_snr_gamma is None:
            return 1.0
        snr = compute_snr(self.scheduler, t)
        limited = snr.clamp(max=self.options.min_snr_gamma)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        return limited / (snr + 1 if velocity else snr)
