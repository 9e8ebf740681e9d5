"""A Stable Diffusion pipeline of a few thousand parameters, and a bridge to it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from bridge_diffusion.bridge import Bridge, BridgeConfig
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.text import NativeTextEncoder


def tiny_unet(in_channels: int = 4, text_width: int = 32) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=text_width,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )


def tiny_pipeline(in_channels: int = 4) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    text_config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config),
        tokenizer=tokenizer,
        unet=tiny_unet(in_channels),
        scheduler=DPMSolverMultistepScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_bridge(model: Path, folder: Path) -> None:
    """Make a bridge to the pipeline in a folder, with residuals that are not zero."""
    native = NativeTextEncoder.from_pretrained(
        save_bert(folder.parent / "text", "红包狐狸雪地月饼")
    )
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    branch = BridgeBranch.from_backbone(unet, native.width)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in branch.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    config = BridgeConfig(
        family="sd15", text_encoding=native.encoding, native_width=native.width, languages=("zh",)
    )
    Bridge(branch, native, config).save_pretrained(folder)


def save_bert(folder: Path, words: Sequence[str], layers: int = 1) -> Path:
    """A BERT of 16 channels whose vocabulary is the special tokens and `words`."""
    folder.mkdir(exist_ok=True)
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    config = BertConfig(
        vocab_size=len(entries),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
