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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.attention import prefer_plain_attention
from bridge_diffusion.training.backbone import Pipeline, backbone_of
from bridge_diffusion.training.bands import band_sums
from bridge_diffusion.training.examples import Examples, encode_backbone_texts
from bridge_diffusion.training.grid import numbered_grid
from bridge_diffusion.training.order import Order, ShuffledOrder
from bridge_diffusion.training.probe import WorldProbe
from bridge_diffusion.training.seeds import draw_each
from bridge_diffusion.training.task import Batch
from bridge_diffusion.training.trained_part import (
    TrainedPart,
    choose_weights,
    merged,
    reorder_for_norms,
)

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
    english_dropout: float = 0.0
    """Part of the images whose English text is emptied while the native caption stays."""
    noise_offset: float = 0.0
    """Deviation of what is added to the noise of a whole channel (Guttenberg 2023); 0: nothing."""
    lora_rank: int | None = None
    """Train LoRAs of this rank in place of the copied weights; None: all weights."""
    freeze: tuple[str, ...] = ()
    """Blocks and weights that stay as they are, by name or pattern (`choose_weights`)."""
    min_snr_gamma: float | None = None
    """Limit of the signal-to-noise ratio in the loss (Hang et al. 2023); None: no weighting."""
    timestep_logit_mean: float | None = None
    """Draw timesteps with a normal logit of t/T of this mean and deviation 1, which is more of the
    noisy ones if it is above 0 (Esser et al. 2024, section 3.1); None: uniformly."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    frozen_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the backbone's weights while the branch trains; samples are drawn in float32."""
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
        if not 0 <= self.english_dropout <= 1:
            raise BridgeError(f"english_dropout is {self.english_dropout}, it must be from 0 to 1")
        if not 0 <= self.noise_offset < 1:
            raise BridgeError(f"noise_offset is {self.noise_offset}, it must be from 0 to below 1")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise BridgeError(f"lora_rank is {self.lora_rank}, it must be 1 or more, or None")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise BridgeError(f"min_snr_gamma is {self.min_snr_gamma}, it must be above 0, or None")


class BranchTask:
    """Trains `bridge.branch` beside the frozen UNet of a stock pipeline."""

    def __init__(
        self,
        pipe: Pipeline,
        bridge: Bridge,
        examples: Examples,
        options: BranchOptions,
        *,
        order: Order | None = None,
        device: str = "cpu",
        probe: WorldProbe | None = None,
    ) -> None:
        """`pipe` and `bridge` are moved to `device`; the backbone's weights are frozen.

        order: which pairs a batch has; every pair comes once an epoch if none is given.

        BridgeError for a backbone that does not predict noise or velocity, and if the options
        leave nothing to train.
        """
        self.pipe, self.bridge, self.examples, self.options = pipe, bridge, examples, options
        self._backbone = backbone_of(pipe)
        self._probe = probe
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        if self.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise BridgeError(
                f"the backbone predicts {self.scheduler.config.prediction_type!r}; training knows "
                "'epsilon' and 'v_prediction'"
            )
        if self.scheduler.config.prediction_type == "epsilon" and ends_in_pure_noise(
            self.scheduler
        ):
            raise BridgeError(
                "the backbone's scheduler ends in pure noise (rescale_betas_zero_snr) and says the "
                "backbone predicts noise, which tells nothing of the picture there: correct its "
                "prediction_type to 'v_prediction', or switch the rescaling off"
            )
        self._order: Order = order or ShuffledOrder(
            len(examples),
            batch_size=options.batch_size,
            caption_dropout=options.caption_dropout,
            english_dropout=options.english_dropout,
            seed=options.seed,
        )
        choose_weights(
            bridge.branch,
            lora_rank=options.lora_rank,
            freeze=options.freeze,
            seed=options.seed,
        )
        pipe.to(device)
        bridge.branch.to(device)
        bridge.text_encoder.to(device)
        pipe.unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        pipe.set_progress_bar_config(disable=True)
        for net in (pipe.unet, bridge.branch):
            prefer_plain_attention(net, latent_side=pipe.unet.config.sample_size, device=device)
        if options.frozen_precision == "bf16":
            pipe.unet.to(torch.bfloat16)
        if options.gradient_checkpointing:
            bridge.branch.enable_gradient_checkpointing()
            pipe.unet.enable_gradient_checkpointing()
        self._english = encode_backbone_texts(pipe, [""])
        self._part: TrainedPart | None = None
        if options.lora_rank is not None or options.freeze:
            bridge.branch.to(memory_format=torch.channels_last)
            reorder_for_norms(bridge.branch)
            self._part = TrainedPart(bridge.branch)

    @property
    def module(self) -> nn.Module:
        return self.bridge.branch if self._part is None else self._part

    def batch(self, index: int) -> Batch:
        return self.examples.batch(self._order.batch(index))

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Mean squared error of the prediction; "unweighted" is the same without min-SNR.

        The latter also by bands of timesteps (`bands.py`).
        """
        encoded = self.examples.encoded(batch)
        z = encoded.latents
        noise = draw_each(generators, lambda g: torch.randn(z.shape[1:], generator=g)).to(z)
        t = draw_each(generators, self._timestep).to(z.device)
        if self.options.noise_offset:
            shape = (z.shape[1], 1, 1)
            offset = draw_each(generators, lambda g: torch.randn(shape, generator=g)).to(z)
            noise = noise + self.options.noise_offset * offset
        noisy = self.scheduler.add_noise(z, noise, t)
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(z, noise, t)
        time_ids = self._backbone.time_ids(encoded.sizes, z)
        residuals = self.bridge.branch(
            noisy,
            t,
            encoded.states,
            encoded.mask,
            pooled=self.bridge.text_encoder.pooled_of(encoded.states),
            time_ids=time_ids,
        )
        english = self._english if encoded.english is None else encoded.english
        english = english.expand(len(z), -1, -1)
        predicted = self._backbone.predict(noisy, t, english, time_ids, residuals)
        errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        steps = self.scheduler.config.num_train_timesteps
        losses = {"loss": (errors * self._weights(t)).mean(), "unweighted": errors.mean()}
        return losses | band_sums(errors, t, steps)

    def samples(self) -> Image.Image | None:
        """The sample prompts drawn with the stock pipeline, picture i from seed i."""
        prompts, scheduler = self.options.sample_prompts, self.pipe.scheduler
        frozen = self.pipe.unet.dtype
        pictures: list[Image.Image] = []
        self.bridge.attach(self.pipe)
        try:
            self.pipe.unet.float()
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
            self.pipe.unet.to(frozen)
        return numbered_grid(pictures) if pictures else None

    def scores(self) -> dict[str, float]:
        """What the probe finds in its pictures; nothing without one."""
        if self._probe is None:
            return {}
        frozen = self.pipe.unet.dtype
        try:
            self.pipe.unet.float()
            return self._probe.scores(self.pipe, self.bridge)
        finally:
            self.pipe.unet.to(frozen)

    def export(self, folder: Path) -> None:
        """The whole bridge, as `Bridge.from_pretrained` reads it."""
        self.export_of(self.bridge.branch, folder)

    def export_of(self, module: nn.Module, folder: Path) -> None:
        """The bridge with `module` for its branch."""
        branch: Any = module if self._part is None else merged(self.bridge.branch)
        if self.options.export_precision == "fp16":
            branch = copy.deepcopy(branch).half()
        Bridge(branch, self.bridge.text_encoder, self.bridge.config).save_pretrained(folder)

    def _timestep(self, generator: torch.Generator) -> Int[Tensor, ""]:
        """A timestep 0..T-1."""
        steps = self.scheduler.config.num_train_timesteps
        if self.options.timestep_logit_mean is None:
            return torch.randint(steps, (), generator=generator)
        logit = self.options.timestep_logit_mean + torch.randn((), generator=generator)
        return (logit.sigmoid() * steps).long().clamp(max=steps - 1)

    def _weights(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"] | float:
        """Min-SNR weights (Hang et al. 2023, equation 8, and appendix for velocity)."""
        if self.options.min_snr_gamma is None:
            return 1.0
        gamma = self.options.min_snr_gamma
        snr = compute_snr(self.scheduler, t)
        if self.scheduler.config.prediction_type == "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
        return (gamma / snr).clamp(max=1)


def ends_in_pure_noise(scheduler: Any) -> bool:
    """Whether nothing of the picture is left at the last timestep: zero terminal SNR.

    Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", section 3.
    """
    return float(scheduler.alphas_cumprod[-1]) < 1e-6
