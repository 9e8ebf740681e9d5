"""What a step of training a branch costs by arithmetic: FLOPs and bytes, nothing computed.

All nets are on torch's meta device, so Stable Diffusion 1.5's own sizes are counted in seconds on
any machine. `benchmarks/training.py` prints the counts, `benchmarks/scale.py` builds on them.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

from bridge_diffusion.models import BridgeBranch


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The nets of one training; the defaults are Stable Diffusion 1.5's with Chinese-CLIP ViT-H."""

    latents: int = 64
    """Side of the latents; an eighth of the picture's."""
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of the UNet's levels."""
    groups: int = 32
    """Groups of the UNet's norms."""
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of the autoencoder's levels."""
    english_width: int = 768
    """Width of the English text states."""
    native_width: int = 1024
    """Width of the native text states."""
    native_layers: int = 24
    """Layers of the native text encoder."""
    native_tokens: int = 52
    """Tokens of a native caption."""

    def unet(self) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            sample_size=self.latents,
            block_out_channels=self.widths,
            cross_attention_dim=self.english_width,
            norm_num_groups=self.groups,
        ).requires_grad_(False)

    def vae(self) -> AutoencoderKL:
        levels = len(self.vae_widths)
        return AutoencoderKL(
            block_out_channels=self.vae_widths,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=min(32, self.vae_widths[0]),
            sample_size=8 * self.latents,
        ).requires_grad_(False)

    def branch(self, unet: UNet2DConditionModel) -> BridgeBranch:
        return branch_like(unet, self.native_width)

    def added(self, batch: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What branch and UNet are given besides, on empty inputs."""
        return {}, {}


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeXL(Size):
    """SDXL's nets at its own 1024 pixels, with two Chinese-CLIP text models side by side."""

    latents: int = 128
    widths: tuple[int, ...] = (320, 640, 1280)
    english_width: int = 2048
    native_width: int = 1792
    pooled_width: int = 1024
    """Width of the native pooled vector."""

    def unet(self) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            sample_size=self.latents,
            block_out_channels=self.widths,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=self.english_width,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        ).requires_grad_(False)

    def branch(self, unet: UNet2DConditionModel) -> BridgeBranch:
        names = BridgeBranch._get_init_keys(BridgeBranch) & set(unet.config)
        config = {name: unet.config[name] for name in names}
        projected = {
            "projected_from": self.native_width,
            "pooled_projected_from": self.pooled_width,
        }
        return BridgeBranch(**config, **projected)

    def added(self, batch: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        time_ids, pooled = torch.zeros(batch, 6), torch.zeros(batch, self.pooled_width)
        texts = {"text_embeds": torch.zeros(batch, 1280), "time_ids": time_ids}
        return {"pooled": pooled, "time_ids": time_ids}, {"added_cond_kwargs": texts}


def controlnet_like(unet: UNet2DConditionModel, text_width: int) -> ControlNetModel:
    """A stock ControlNet of the same layout as a branch; it needs a conditioning picture."""
    names = ControlNetModel._get_init_keys(ControlNetModel) & set(unet.config)
    config = {name: unet.config[name] for name in names}
    return ControlNetModel(**{**config, "cross_attention_dim": text_width})


def branch_like(unet: UNet2DConditionModel, text_width: int) -> BridgeBranch:
    names = BridgeBranch._get_init_keys(BridgeBranch) & set(unet.config)
    config = {name: unet.config[name] for name in names}
    return BridgeBranch(**{**config, "cross_attention_dim": text_width})


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFlops:
    """FLOPs of an image, by part."""

    vae: float
    """Encoding the picture."""
    texts: float
    """Both text encoders."""
    hint: float
    """The stock ControlNet's image embedding, forward and backward; a branch has none."""
    nets: float
    """Branch forward and backward, backbone forward, and backward through its decoder."""
    checkpointed: float
    """The same with gradient checkpointing."""

    @property
    def gain(self) -> float:
        """How many times as fast a step without encoders is, if time were FLOPs."""
        return (self.vae + self.texts + self.hint + self.nets) / self.nets


def step_flops(size: Size) -> StepFlops:
    """Counted on the meta device, for a batch of one."""
    with torch.device("meta"):
        unet, vae = size.unet(), size.vae()
        branch = branch_like(unet, size.native_width)
        stock = controlnet_like(unet, size.native_width)
        native = BertModel(
            BertConfig(
                hidden_size=size.native_width,
                num_hidden_layers=size.native_layers,
                num_attention_heads=size.native_width // 64 or 1,
                intermediate_size=4 * size.native_width,
            ),
            add_pooling_layer=False,
        )
        english = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=size.english_width,
                intermediate_size=4 * size.english_width,
                num_hidden_layers=12,
                num_attention_heads=size.english_width // 64 or 1,
            )
        )
        pixels = torch.zeros(1, 3, 8 * size.latents, 8 * size.latents)
        words = torch.zeros(1, size.native_tokens, dtype=torch.long)
        english_words = torch.zeros(1, 77, dtype=torch.long)
        hint = torch.zeros_like(pixels)

        def texts() -> None:
            native(words)
            english(english_words)

        def embed_hint() -> None:
            stock.controlnet_cond_embedding(hint).sum().backward()

        def again() -> None:
            unet.enable_gradient_checkpointing()
            branch.enable_gradient_checkpointing()
            nets_loss(unet, branch, size, 1).backward()

        return StepFlops(
            vae=_flops(lambda: vae.encode(pixels)),
            texts=_flops(torch.no_grad()(texts)),
            hint=_flops(embed_hint),
            nets=_flops(lambda: nets_loss(unet, branch, size, 1).backward()),
            checkpointed=_flops(again),
        )


def nets_loss(unet: UNet2DConditionModel, branch: BridgeBranch, size: Size, batch: int) -> Tensor:
    """The part of a step that every way of training has, on empty inputs."""
    device = unet.device
    with device:
        noisy = torch.zeros(batch, 4, size.latents, size.latents)
        t = torch.zeros(batch, dtype=torch.long)
        native = torch.zeros(batch, size.native_tokens, size.native_width)
        english = torch.zeros(batch, 77, size.english_width)
        for_branch, for_unet = size.added(batch)
    down, mid = branch(noisy, t, native, **for_branch)
    predicted = unet(
        noisy.to(unet.dtype),
        t,
        english.to(unet.dtype),
        down_block_additional_residuals=[residual.to(unet.dtype) for residual in down],
        mid_block_additional_residual=mid.to(unet.dtype),
        **for_unet,
    ).sample
    return (predicted.float() - noisy).square().mean()


Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBytes:
    """Memory of a step, in bytes."""

    weights: int
    """Branch and backbone."""
    weights_trained: int
    """The branch's alone."""
    average: int
    """The moving average of the branch."""
    optimizer: int
    """Two moments a trained weight."""
    gradients: int
    """One a trained weight."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    peak: int
    """The most that is there at one moment, the average included."""

    @property
    def floor(self) -> int:
        """What has to be there: all but the temporary values."""
        return self.weights + self.average + self.optimizer + self.gradients + self.activations


def step_bytes(
    size: Size,
    *,
    batch: int,
    precision: Precision,
    checkpointing: bool = False,
    frozen: torch.dtype = torch.float32,
    moment_bytes: int = 4,
) -> StepBytes:
    """Allocations of a whole step, counted on the meta device as an accelerator would make them.

    Args:
        precision: "bf16" is autocast, as the training loop has it.
        checkpointing: As `gradient_checkpointing` of a recipe.
        frozen: Precision of the backbone's weights.
        moment_bytes: Bytes of one moment of one weight: 4, or 1 with an 8-bit optimiser.
    """
    with torch.device("meta"):
        unet = size.unet()
        if frozen != torch.float32:
            unet = unet.to(frozen)
        branch = size.branch(unet)
    if checkpointing:

        def contexts() -> tuple[Any, Any]:  # torch leaves the function mode while it goes backward
            return nullcontext(), _AsOnAccelerator(precision)

        again = partial(checkpoint, use_reentrant=False, context_fn=contexts)
        unet.enable_gradient_checkpointing(again)
        branch.enable_gradient_checkpointing(again)
    trained = sum(weight.numel() for weight in branch.parameters())
    weights = 4 * trained + sum(w.numel() * w.element_size() for w in unet.parameters())
    optimizer, average = 2 * moment_bytes * trained, 4 * trained
    with (
        _AsOnAccelerator(precision),
        _Allocations([*unet.parameters(), *branch.parameters()]) as count,
    ):
        loss = nets_loss(unet, branch, size, batch)
        activations = count.now
        loss.backward()
    return StepBytes(
        weights=weights,
        weights_trained=4 * trained,
        average=average,
        optimizer=optimizer,
        gradients=4 * trained,
        activations=activations,
        peak=weights + average + optimizer + count.peak,
    )


class _Allocations(TorchDispatchMode):
    """Bytes of all storages that come into being inside, now and at most; `known` are left out."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._alive:
            return

        def gone(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


_HALF = {F.linear, torch.conv2d, F.conv2d, torch.matmul, torch.bmm, torch.baddbmm}
_FULL = {F.group_norm, F.layer_norm, F.softmax}


class _AsOnAccelerator(TorchFunctionMode):
    """What torch does on CUDA and not on meta: fused attention, and autocast to bfloat16."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self._half = precision == "bf16"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k, v = tree_map(_half, args[:3]) if self._half else args[:3]
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        if self._half and func in _HALF:
            args, kwargs = tree_map(_half, (args, kwargs))
        elif self._half and func in _FULL:
            args, kwargs = tree_map(_full, (args, kwargs))
        return func(*args, **kwargs)


def _half(value: Any) -> Any:
    single = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.bfloat16() if single else value


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _flops(compute: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops())
