"""Tiny backbones and branches of the real classes, with drawn weights."""

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from bridge_diffusion.models import BackboneHooks, BridgeBranch, NativePart, PackLayout, Segment
from bridge_diffusion.text import NativeEmbeddings

ENGLISH_WIDTH = 24
NATIVE_WIDTH = 20
NATIVE_TOKENS = 10


@torch.no_grad()
def draw_weights(network: nn.Module, seed: int) -> None:
    """Every tensor alive, zero convolutions too, and the activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 25
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)


def make_unet(in_channels: int = 4, **settings: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=ENGLISH_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        **settings,
    )
    draw_weights(unet, seed=1)
    return unet.eval()


def make_branch(unet: UNet2DConditionModel) -> BridgeBranch:
    """A branch of this backbone that has learnt something."""
    branch = BridgeBranch.from_backbone(unet, NATIVE_WIDTH)
    draw_weights(branch, seed=2)
    return branch.eval()


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return make_unet()


@pytest.fixture
def inpainting_unet() -> UNet2DConditionModel:
    return make_unet(in_channels=9)


@pytest.fixture
def xl_unet() -> UNet2DConditionModel:
    """SDXL's added conditions: a pooled text vector of width 12 and six size numbers."""
    return make_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
    )


@pytest.fixture
def branch(unet: UNet2DConditionModel) -> BridgeBranch:
    return make_branch(unet)


@pytest.fixture
def segment() -> Segment:
    return Segment(native_width=NATIVE_WIDTH, native_tokens=NATIVE_TOKENS)


@pytest.fixture
def layout(segment: Segment) -> PackLayout:
    return PackLayout(english_width=ENGLISH_WIDTH, segments=(segment,))


@pytest.fixture
def hooks(unet: UNet2DConditionModel, branch: BridgeBranch, layout: PackLayout) -> BackboneHooks:
    """The branch at work in the backbone."""
    hooks = BackboneHooks(layout.english_width)
    hooks.add(branch, layout.segments[0].native_tokens)
    hooks.attach(unet)
    return hooks


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Standard normal tensors, always new ones: `draw(2, 7, 24)`."""
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(shape, generator=generator)


@pytest.fixture
def native(draw: Callable[..., Tensor]) -> Callable[..., NativeEmbeddings]:
    """Native embeddings of so many prompts, the last token of each masked: `native(2)`."""

    def make(batch: int, tokens: int = 6) -> NativeEmbeddings:
        mask = torch.ones(batch, tokens, dtype=torch.bool)
        mask[:, -1] = False
        return NativeEmbeddings(hidden=draw(batch, tokens, NATIVE_WIDTH), mask=mask, pooled=None)

    return make


@pytest.fixture
def pair(
    layout: PackLayout,
    segment: Segment,
    native: Callable[..., NativeEmbeddings],
    draw: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Packed states of a guidance batch, [negatives, positives]: `pair(1, shared=True)`."""

    def make(prompts: int, shared: bool = False, scale: float = 1.0) -> Tensor:
        negative = draw(prompts, 7, ENGLISH_WIDTH)
        positive = negative if shared else draw(prompts, 7, ENGLISH_WIDTH)
        scales = torch.full((prompts,), scale)
        sides = ((negative, False, 8), (positive, True, 6))
        return torch.cat(
            [
                layout.pack(
                    states,
                    {segment: NativePart(native=native(prompts, tokens), scale=scales)},
                    positive=side,
                )
                for states, side, tokens in sides
            ]
        )

    return make
