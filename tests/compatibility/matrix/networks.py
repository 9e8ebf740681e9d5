"""Tiny backbones of both families and a bridge for each: real classes, weights from seeds."""

import copy
import functools
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
    T2IAdapter,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    ChineseCLIPTextConfig,
    ChineseCLIPTextModel,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from bridge_diffusion import Bridge, BridgeBranch
from bridge_diffusion.models.config import BridgeConfig, release_encoding
from bridge_diffusion.text import NativeTextEncoder

Family = Literal["sd15", "sdxl"]
FAMILIES: tuple[Family, ...] = ("sd15", "sdxl")

GOLDEN = Path(__file__).parents[2] / "golden" / "case-a-sd15" / "weights"
CLIP_WIDTH = 32
BIG_CLIP_WIDTH = 24
POOLED_WIDTH = 20
IMAGE_WIDTH = 16
NATIVE_WIDTHS = {"sd15": (48,), "sdxl": (48, 32)}
_VOCABULARY = 880  # CLIP's tokenizer of the reference case
_NATIVE_VOCABULARY = 740


@torch.no_grad()
def drawn(network: Any, seed: int) -> Any:
    """Every tensor alive, zero convolutions and zero projections too; activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / max(parameter[0].numel(), 1) ** 0.5)
        else:
            parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def trained_further(network: Any, seed: int, size: float = 0.3) -> Any:
    """The same network after somebody's fine-tuning."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(size * float(parameter.std(correction=0)) * noise)
    return network


def make_unet(family: Family, **settings: Any) -> UNet2DConditionModel:
    """Two levels, one of them with attention; as in SDXL, its first level has none."""
    levels: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CLIP_WIDTH,
    }
    if family == "sdxl":
        levels = {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": CLIP_WIDTH + BIG_CLIP_WIDTH,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": POOLED_WIDTH + 6 * 8,
        }
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        **{**levels, **settings},
    )
    return drawn(unet, seed=1)


def make_vae(seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    ).eval()


def _clip_config(width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection,
        bos_token_id=878,
        eos_token_id=879,
    )


def make_controlnet(unet: UNet2DConditionModel, seed: int) -> ControlNetModel:
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    return drawn(net, seed)


def make_t2i_adapter(family: Family, seed: int) -> T2IAdapter:
    adapter = T2IAdapter(
        in_channels=3,
        channels=(16, 32),
        num_res_blocks=1,
        downscale_factor=2 if family == "sd15" else 4,
        adapter_type="full_adapter" if family == "sd15" else "full_adapter_xl",
    )
    return drawn(adapter, seed)


def make_motion_adapter(family: Family) -> MotionAdapter:
    adapter = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=8,
        use_motion_mid_block=family == "sd15",
    )
    return drawn(adapter, seed=9)


def make_image_encoder() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=IMAGE_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=IMAGE_WIDTH,
    )
    return drawn(CLIPVisionModelWithProjection(config), seed=11)


def make_image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def make_parts(family: Family, **unet: Any) -> dict[str, Any]:
    """The components of a stock pipeline of the family, anew at each call."""
    return copy.deepcopy(_parts(family, tuple(unet.items())))


@functools.cache
def _parts(family: Family, unet: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "unet": make_unet(family, **dict(unet)),
        "vae": make_vae(seed=5),
        "text_encoder": drawn(CLIPTextModel(_clip_config(CLIP_WIDTH, CLIP_WIDTH)), seed=3),
        "tokenizer": CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer"),
    }
    if family == "sd15":
        parts["scheduler"] = DDIMScheduler(
            beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        )
        return {**parts, "safety_checker": None, "feature_extractor": None}
    big = CLIPTextModelWithProjection(_clip_config(BIG_CLIP_WIDTH, POOLED_WIDTH))
    parts["text_encoder_2"] = drawn(big, seed=4)
    parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer", pad_token="!")
    parts["scheduler"] = EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1)
    return parts


@functools.cache
def _native_models(family: Family) -> tuple[ChineseCLIPTextModel, ...]:
    models = []
    for number, width in enumerate(NATIVE_WIDTHS[family]):
        config = ChineseCLIPTextConfig(
            vocab_size=_NATIVE_VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
        models.append(
            drawn(ChineseCLIPTextModel(config, add_pooling_layer=False), seed=21 + number)
        )
    return tuple(models)


def write_native_models(family: Family, folder: Path) -> list[Path]:
    """The native text models as Hugging Face folders, the larger one first."""
    folders = []
    for number, model in enumerate(_native_models(family)):
        folders.append(folder / f"native-{number}")
        shutil.copytree(GOLDEN / "native_tokenizer", folders[-1])
        model.save_pretrained(folders[-1])
    return folders


def make_branch(family: Family) -> BridgeBranch:
    """A branch that has learnt something."""
    widths = NATIVE_WIDTHS[family]
    pooled = widths[0] if family == "sdxl" else None
    branch = BridgeBranch.from_backbone(make_unet(family), sum(widths), pooled)
    return drawn(branch, seed=2)


def make_bridge(family: Family, native_folders: list[Path]) -> Bridge:
    encoding = release_encoding(family, models=len(native_folders))
    text = NativeTextEncoder.from_pretrained(native_folders, encoding)
    config = BridgeConfig(family=family, text_encoding=encoding, native_width=text.width)
    return Bridge(make_branch(family), text, config)


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}
