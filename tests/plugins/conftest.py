"""Plug-ins as the stock tools write them, for the reference case's pipeline and a tiny SDXL one."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bridge_diffusion import BridgeError
from bridge_diffusion.plugins.lora import load_lora

UNET_TARGETS = ["to_q", "to_k", "to_out.0", "ff.net.2", "proj_in", "conv1", "time_emb_proj"]
TEXT_TARGETS = ["q_proj", "fc1"]


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def add_lora(network: Any, seed: int = 5, **settings: Any) -> dict[str, Tensor]:
    """Put a live LoRA into a network with peft; its tensors by peft's names."""
    network.add_adapter(LoraConfig(**settings), "made")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return get_peft_model_state_dict(network, adapter_name="made")


def draw(pipe: Any, **call: Any) -> np.ndarray:
    call = {"prompt": "fox"} | call if "prompt_embeds" not in call else call
    settings = {"num_inference_steps": 2, "output_type": "np"}
    return pipe(**call, **settings, generator=torch.Generator().manual_seed(1)).images


def frozen(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def saved(folder: Path, unet: Any, text: Any = None, **notes: Any) -> Path:
    StableDiffusionPipeline.save_lora_weights(folder, unet, text, **notes)
    return folder / "pytorch_lora_weights.safetensors"


def refusal(pipe: Any, path: Path) -> str:
    before = frozen(pipe.unet)
    with pytest.raises(BridgeError) as error:
        load_lora(pipe, path)
    assert same(frozen(pipe.unet), before)
    assert not any(pipe.get_list_adapters().values())
    message = str(error.value)
    assert "\n" not in message
    return message


def to_kohya(unet: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """kohya's layout of peft's tensors, by diffusers' converter; every alpha is the rank."""
    named = {f"unet.{k}": v for k, v in unet.items()}
    named |= {f"text_encoder.text_model.{k}": v for k, v in text.items()}
    return convert_state_dict_to_kohya(named)


@pytest.fixture
def taught(
    new_pipe: Callable[[], StableDiffusionPipeline],
) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """Tensors of a LoRA of UNet and text encoder, at scale 1, and a pipeline that has it."""
    pipe = new_pipe()
    unet = add_lora(pipe.unet, r=4, lora_alpha=4, target_modules=UNET_TARGETS)
    text = add_lora(pipe.text_encoder, r=2, lora_alpha=2, target_modules=TEXT_TARGETS)
    return unet, text, pipe


@pytest.fixture(scope="session")
def loaded_pipe(reference_weights: Path) -> StableDiffusionPipeline:
    """Tests must not change it."""
    return StableDiffusionPipeline.from_pretrained(
        reference_weights, safety_checker=None, requires_safety_checker=False
    )


@pytest.fixture
def new_pipe(loaded_pipe: StableDiffusionPipeline) -> Callable[[], StableDiffusionPipeline]:
    """The reference case's pipeline, anew at each call; copied, because reading it takes longer."""

    def make() -> StableDiffusionPipeline:
        pipe = StableDiffusionPipeline(
            **copy.deepcopy(loaded_pipe.components), requires_safety_checker=False
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def pipe(new_pipe: Callable[[], StableDiffusionPipeline]) -> StableDiffusionPipeline:
    return new_pipe()


@pytest.fixture
def kohya_file(taught: tuple, tmp_path: Path) -> Path:
    unet, text, _ = taught
    save_file(to_kohya(unet, text), tmp_path / "style.safetensors", {"ss_network_dim": "4"})
    return tmp_path / "style.safetensors"


@pytest.fixture
def xl_pipe(pipe: StableDiffusionPipeline) -> StableDiffusionXLPipeline:
    """A small SDXL pipeline with the reference case's tokenizer and VAE."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(pipe.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=pipe.tokenizer.bos_token_id,
        eos_token_id=pipe.tokenizer.eos_token_id,
        projection_dim=16,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    made = StableDiffusionXLPipeline(
        vae=pipe.vae,
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=pipe.tokenizer,
        tokenizer_2=copy.deepcopy(pipe.tokenizer),
        unet=unet.eval(),
        scheduler=pipe.scheduler,
        add_watermarker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made
