"""What the community adds to a backbone, made at tiny size and loaded by stock calls alone."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoHaConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matrix.lora_files import (
    ATTENTION,
    RANK,
    as_dora,
    as_kohya,
    as_locon,
    as_loha,
    as_old_diffusers,
    as_peft,
)
from matrix.networks import (
    BIG_CLIP_WIDTH,
    CLIP_WIDTH,
    IMAGE_WIDTH,
    Family,
    drawn,
    make_image_encoder,
    make_image_processor,
    make_vae,
    trained_further,
)
from matrix.pipelines import Parts, picture
from matrix.single_files import single_file_state

ENGLISH = "a red fox"
TOKEN = "<style>"
_LORA = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class PluginCase:
    """One column of the matrix."""

    name: str
    """Its name in the tables."""
    replace: Callable[[Family, Parts, Path], Parts] = lambda family, parts, folder: {}
    """Parts that it puts in the place of the family's; files go into the folder."""
    load: Callable[[Family, Any, Path], None] = lambda family, pipe, folder: None
    """What is called on the pipeline."""
    needs: str | None = None
    """The method of the pipeline that loads it, None where any pipeline will do."""
    argument: str | None = None
    """The argument of the pipeline's call that it needs, if any."""
    call: Callable[[], dict[str, Any]] = dict
    """What the pipeline's call gets besides."""
    settings: Callable[[Any], dict[str, Any]] = lambda pipe: {}
    """What goes with it and acts without it too: sets the pipeline, gives arguments of its call."""
    english: str = ENGLISH
    """The English prompt that calls it up."""
    negative: str = ""
    """And the negative one."""
    needs_words: bool = False
    """Whether it acts through words of the English prompt alone."""
    changes_text: bool = False
    """Whether the English embeddings must differ with it."""
    families: tuple[Family, ...] = ("sd15", "sdxl")
    """Where it exists."""
    why_not: str = ""
    """Why it does not exist elsewhere."""
    refused_by_stock: str | None = None
    """What diffusers says where it cannot load the file at all."""


# Checkpoints: parts in the place of others


def _base_pipe(family: Family, parts: Parts) -> Any:
    names = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    if family == "sdxl":
        names |= {"text_encoder_2", "tokenizer_2"}
        return StableDiffusionXLPipeline(**{name: parts[name] for name in names})
    return StableDiffusionPipeline(
        **{name: parts[name] for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _networks_of(pipe: Any) -> Parts:
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    return {name: getattr(pipe, name) for name in names if getattr(pipe, name, None) is not None}


def _saved(family: Family, parts: Parts, folder: Path) -> Any:
    """The family's model after somebody's fine-tuning, as a pipeline and in a folder."""
    pipe = _base_pipe(family, parts)
    trained_further(pipe.unet, seed=31)
    trained_further(pipe.text_encoder, seed=32)
    pipe.save_pretrained(folder)
    return pipe


def _from_folder(family: Family, parts: Parts, folder: Path) -> Parts:
    kind = type(_saved(family, parts, folder / "model"))
    return _networks_of(kind.from_pretrained(folder / "model"))


def _from_single_file(suffix: str) -> Callable[[Family, Parts, Path], Parts]:
    def load(family: Family, parts: Parts, folder: Path) -> Parts:
        pipe = _saved(family, parts, folder / "model")
        state, path = single_file_state(pipe), folder / f"model{suffix}"
        if suffix == ".ckpt":
            torch.save({"state_dict": state, "global_step": 1}, path)
        else:
            save_file(state, path)
        tokenizers = {name: parts[name] for name in ("tokenizer", "tokenizer_2") if name in parts}
        single = type(pipe).from_single_file(
            str(path), config=str(folder / "model"), local_files_only=True, **tokenizers
        )
        return _networks_of(single)

    return load


def _dreambooth(family: Family, parts: Parts, folder: Path) -> Parts:
    """A UNet and its text encoders, trained a little on a few pictures; the VAE as it was."""
    pipe = _base_pipe(family, parts)
    for seed, name in enumerate(("unet", "text_encoder", "text_encoder_2")):
        if getattr(pipe, name, None) is not None:
            trained_further(getattr(pipe, name), seed=41 + seed, size=0.1)
    pipe.save_pretrained(folder / "dreambooth")
    return _networks_of(type(pipe).from_pretrained(folder / "dreambooth"))


# LoRA


def _lora(layout: Callable[[Any, int], dict[str, Tensor]]) -> Callable[[Family, Any, Path], None]:
    def load(family: Family, pipe: Any, folder: Path) -> None:
        save_file(layout(pipe, 51), folder / _LORA)
        pipe.load_lora_weights(folder, weight_name=_LORA, adapter_name="one")

    return load


def _two_loras(family: Family, pipe: Any, folder: Path) -> None:
    for name, layout, seed in (("one", as_peft, 51), ("two", as_kohya, 61)):
        save_file(layout(pipe, seed), folder / f"{name}.safetensors")
    for name in ("one", "two"):
        pipe.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(["one", "two"], [0.8, 0.3])


def _lcm_lora(family: Family, pipe: Any, folder: Path) -> None:
    state = {key: v for key, v in as_peft(pipe, 71).items() if key.startswith("unet.")}
    save_file(state, folder / _LORA)
    pipe.load_lora_weights(folder, weight_name=_LORA, adapter_name="lcm")


def _lcm_settings(pipe: Any) -> dict[str, Any]:
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return {"guidance_scale": 1.5}


def _peft_loha(family: Family, pipe: Any, folder: Path) -> None:
    """Into the UNet by peft itself, as its documentation has it for diffusers' models."""
    config = LoHaConfig(r=RANK, target_modules=list(ATTENTION), init_weights=False)
    torch.manual_seed(81)
    inject_adapter_in_model(config, pipe.unet, adapter_name="loha")


# Textual Inversion


def _vectors(width: int, count: int | None, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((width,) if count is None else (count, width), generator=generator)


def _embedding(count: int | None, kind: str) -> Callable[[Family, Any, Path], None]:
    """`count` None is one vector without a dimension of its own."""

    def load(family: Family, pipe: Any, folder: Path) -> None:
        vectors = _vectors(CLIP_WIDTH, count, seed=91)
        if family == "sdxl":
            big = _vectors(BIG_CLIP_WIDTH, count, seed=92)
            save_file({"clip_l": vectors, "clip_g": big}, folder / "style.safetensors")
            _load_pair(pipe, folder / "style.safetensors")
        elif kind == "A1111 .pt":
            content = {
                "string_to_token": {"*": 265},
                "string_to_param": {"*": vectors},
                "name": "style",
                "step": 100,
            }
            torch.save(content, folder / "style.pt")
            pipe.load_textual_inversion(folder, weight_name="style.pt", token=TOKEN)
        else:
            key = "emb_params" if kind == "A1111 .safetensors" else TOKEN
            save_file({key: vectors}, folder / "style.safetensors")
            pipe.load_textual_inversion(folder, weight_name="style.safetensors", token=TOKEN)

    return load


def _load_pair(pipe: Any, path: Path) -> None:
    """As diffusers' documentation loads SDXL's two embeddings of one file."""
    state = load_file(path)
    for key, encoder, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(
            state[key], token=TOKEN, text_encoder=encoder, tokenizer=tokenizer
        )


# IP-Adapter


def _ip_adapter(family: Family, pipe: Any, folder: Path) -> None:
    pipe.register_modules(
        image_encoder=make_image_encoder(), feature_extractor=make_image_processor()
    )
    save_file(_ip_adapter_state(pipe.unet, seed=101), folder / "ip-adapter.safetensors")
    pipe.load_ip_adapter(
        folder, subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None
    )


def _two_ip_adapters(family: Family, pipe: Any, folder: Path) -> None:
    pipe.register_modules(
        image_encoder=make_image_encoder(), feature_extractor=make_image_processor()
    )
    names = ["one.safetensors", "two.safetensors"]
    for seed, name in zip((101, 102), names, strict=True):
        save_file(_ip_adapter_state(pipe.unet, seed), folder / name)
    pipe.load_ip_adapter(
        [folder, folder], subfolder=["", ""], weight_name=names, image_encoder_folder=None
    )
    pipe.set_ip_adapter_scale([0.8, 0.3])


def _ip_adapter_state(unet: nn.Module, seed: int) -> dict[str, Tensor]:
    """Keys and values for each cross-attention, numbered 1, 3, 5 ...; and the image projection."""
    generator = torch.Generator().manual_seed(seed)
    width, tokens = unet.config.cross_attention_dim, 4
    projection = {
        "proj.weight": (tokens * width, IMAGE_WIDTH),
        "proj.bias": (tokens * width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    state = {
        f"image_proj.{name}": torch.randn(shape, generator=generator)
        for name, shape in projection.items()
    }
    number = 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor") or "motion_modules" in name:
            continue
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            matrix = torch.randn(attention.inner_dim, width, generator=generator) / width**0.5
            state[f"ip_adapter.{number}.to_{part}_ip.weight"] = matrix
        number += 2
    return state


NONE = PluginCase(name="none")


@functools.cache
def without(plugin: PluginCase) -> PluginCase:
    """The same words and settings, and nothing loaded: what a plug-in must differ from."""
    if plugin is NONE:
        return NONE
    return replace(NONE, english=plugin.english, negative=plugin.negative, settings=plugin.settings)


PLUGINS = (
    NONE,
    PluginCase(name="checkpoint, folder", replace=_from_folder),
    PluginCase(name="checkpoint, .safetensors", replace=_from_single_file(".safetensors")),
    PluginCase(name="checkpoint, .ckpt", replace=_from_single_file(".ckpt")),
    PluginCase(name="DreamBooth", replace=_dreambooth, changes_text=True),
    PluginCase(name="another VAE", replace=lambda f, parts, d: {"vae": drawn(make_vae(0), 25)}),
    PluginCase(
        name="LoRA, diffusers",
        load=_lora(as_old_diffusers),
        needs="load_lora_weights",
        changes_text=True,
    ),
    PluginCase(
        name="LoRA, kohya", load=_lora(as_kohya), needs="load_lora_weights", changes_text=True
    ),
    PluginCase(
        name="LoRA, PEFT", load=_lora(as_peft), needs="load_lora_weights", changes_text=True
    ),
    PluginCase(
        name="two LoRAs, 0.8 and 0.3", load=_two_loras, needs="load_lora_weights", changes_text=True
    ),
    PluginCase(name="LoCon, kohya", load=_lora(as_locon), needs="load_lora_weights"),
    PluginCase(name="DoRA, PEFT", load=_lora(as_dora), needs="load_lora_weights"),
    PluginCase(name="LoHa, PEFT", load=_peft_loha),
    PluginCase(
        name="LoHa, kohya",
        load=_lora(as_loha),
        needs="load_lora_weights",
        refused_by_stock="have not been correctly renamed",
    ),
    PluginCase(
        name="LCM-LoRA",
        load=_lcm_lora,
        needs="load_lora_weights",
        settings=_lcm_settings,
    ),
    *(
        PluginCase(
            name=f"Textual Inversion, {name}",
            load=_embedding(count, kind),
            needs="load_textual_inversion",
            english=f"a fox in {TOKEN}",
            needs_words=True,
            changes_text=True,
            families=families,
            why_not="the embeddings of SDXL are pairs in a .safetensors file",
        )
        for name, count, kind, families in (
            ("[w]", None, "diffusers", ("sd15", "sdxl")),
            ("[1, w]", 1, "diffusers", ("sd15", "sdxl")),
            ("[3, w]", 3, "diffusers", ("sd15", "sdxl")),
            ("A1111 .pt", 2, "A1111 .pt", ("sd15",)),
            ("A1111 .safetensors", 2, "A1111 .safetensors", ("sd15",)),
        )
    ),
    PluginCase(
        name="Textual Inversion, negative",
        load=_embedding(3, "diffusers"),
        needs="load_textual_inversion",
        negative=f"{TOKEN}, blurry",
        argument="negative_prompt",
        needs_words=True,
        changes_text=True,
    ),
    PluginCase(
        name="IP-Adapter",
        load=_ip_adapter,
        needs="load_ip_adapter",
        argument="ip_adapter_image",
        call=lambda: {"ip_adapter_image": picture(150)},
    ),
    PluginCase(
        name="two IP-Adapters, 0.8 and 0.3",
        load=_two_ip_adapters,
        needs="load_ip_adapter",
        argument="ip_adapter_image",
        call=lambda: {"ip_adapter_image": [picture(150), picture(60)]},
    ),
)
