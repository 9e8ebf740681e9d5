"""What a file or folder is, told from names, headers and JSON alone.

No weight is loaded and no pickle is opened, so it is safe on any file and quick on large ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.lora_header import read_lora_header, trigger_words
from bridge_diffusion.reading import is_pickle, read_json, refuse_pickle

PICKLE = "PyTorch pickle"
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# The first line whose test holds names the kind; the more telling marks come first.
_KINDS_BY_KEY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("IP-Adapter", ("image_proj.", "ip_adapter.")),  # some hold LoRAs besides
    ("Control-LoRA", ("lora_controlnet",)),
    ("ControlNet-LLLite", ("lllite_",)),
    ("ControlNet", ("control_model.",)),  # the first published ones hold a whole model besides
    ("LoRA", ("lora_up.", "lora_down.", "lora_A.", "lora_B.", "lora.up.", "lora.down.", "_lora.")),
    ("LoRA", ("lora_unet_", "lora_te", "lora_linear_layer.", ".lokr_", ".hada_", ".oft_")),
    ("LoRA", ("base_model.model.",)),  # what peft saves, whatever the method
    ("Stable Diffusion checkpoint", ("model.diffusion_model.",)),
    ("ControlNet", ("controlnet_cond_embedding.", "input_hint_block.")),
    ("bridge branch", ("controlnet_down_blocks.",)),
    ("T2I-Adapter", ("adapter.body.", "body.0.block1.")),
    ("textual inversion", ("emb_params", "string_to_param")),
    ("text encoder", ("embeddings.token_embedding.", "embeddings.word_embeddings.")),
    (
        "VAE",
        (
            "first_stage_model.",
            "decoder.up_blocks.",
            "decoder.layers.",
            "decoder.up.",
            "decoder.mid.block_1.",
        ),
    ),
    ("UNet", ("down_blocks.0.resnets.", "mid_block.resnets.", "time_embedding.")),
)
# What the class in a folder's config.json is; any other is a "model".
_KINDS_BY_CLASS = {
    "ControlNetModel": "ControlNet",
    "AutoencoderKL": "VAE",
    "AutoencoderTiny": "VAE",
    "T2IAdapter": "T2I-Adapter",
}
_FAMILY_NAMES = {
    "sd15": "Stable Diffusion 1.5",
    "sd2": "Stable Diffusion 2",
    "sdxl": "SDXL",
    "transformer": "a transformer such as Flux",
}
# Width of the text states that a family's cross-attention reads.
_FAMILY_BY_TEXT_WIDTH = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
# A T2I-Adapter's first layer reads squares of 8 pixels (SDXL: 16) of one or three channels.
_FIRST_OF_T2I_ADAPTERS = (
    "conv_in.weight", "adapter.conv_in.weight",
    "body.0.in_conv.weight", "adapter.body.0.in_conv.weight",
)  # fmt: skip
# SDXL's pair as diffusers' newer training script names it.
_TOWERS = {"text_encoders_0", "text_encoders_1"}
_FAMILY_BY_UNSHUFFLED = {64: "sd15", 192: "sd15", 256: "sdxl", 768: "sdxl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a file or folder is."""

    path: Path
    """Where it is."""
    kind: str
    """"bridge", "pipeline", "picture", "LoRA", "PyTorch pickle", "safetensors" and the like."""
    family: str | None = None
    """"sd15", "sd2" or "sdxl"; None where it cannot be told."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further facts by name, as JSON values."""

    @property
    def family_name(self) -> str:
        """The family as people say it; empty where it is not known."""
        return _FAMILY_NAMES.get(self.family or "", self.family or "")


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsHeader:
    """The header of a safetensors file."""

    shapes: Mapping[str, tuple[int, ...]]
    """Each tensor's shape by its name."""
    metadata: Mapping[str, str]
    """The file's own notes, `modelspec.*` among them."""


def read_header(path: Path) -> SafetensorsHeader:
    """The header of a safetensors file; the tensors themselves are not read.

    Raises:
        BridgeError: The file is missing, cut short, or something else (a pickle, a web page).
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BridgeError(f"no weight file at {path}; check the path")
    refuse_pickle(path)
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BridgeError(
            f"{path} is no whole safetensors file ({error}); it may be cut short: get it again"
        ) from error
    return SafetensorsHeader(shapes=shapes, metadata=metadata)


def identify(path: Path) -> Identity:
    """What a file or folder is.

    Raises:
        BridgeError: There is nothing at the path, or the file is damaged.
    """
    if path.is_dir():
        return _identify_folder(path)
    if not path.is_file():
        raise BridgeError(f"nothing at {path}; check the path")
    suffix = path.suffix.lower()
    if suffix in _PICTURE_SUFFIXES:
        return Identity(path=path, kind="picture")
    if suffix == ".safetensors":
        return _identify_safetensors(path)
    pickled = suffix in PICKLE_SUFFIXES or is_pickle(path)
    kind = PICKLE if pickled else "file of unknown content"
    return Identity(path=path, kind=kind, details={"bytes": path.stat().st_size})


def _identify_folder(folder: Path) -> Identity:
    if (folder / "bridge.json").is_file():
        config = read_json(folder / "bridge.json")
        family = config.get("family")
        return Identity(
            path=folder,
            kind="bridge",
            family=family if isinstance(family, str) else None,
            details=config,
        )
    if (folder / "model_index.json").is_file():
        return _identify_pipeline(folder)
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        name = config.get("_class_name") or ", ".join(config.get("architectures") or ["unnamed"])
        published = name == "ControlNetModelBDM"
        width = config.get("cross_attention_dim")
        if name in _KINDS_BY_CLASS:
            family = _FAMILY_BY_TEXT_WIDTH.get(width) if isinstance(width, int) else None
            if name == "T2IAdapter":
                family = "sdxl" if config.get("adapter_type") == "full_adapter_xl" else "sd15"
            return Identity(
                path=folder, kind=_KINDS_BY_CLASS[name], family=family, details={"class": name}
            )
        return Identity(
            path=folder,
            kind="bridge in the published layout" if published else "model",
            family=("sdxl" if config.get("is_xl") else "sd15") if published else None,
            details={"class": name, **({"native_width": width} if published else {})},
        )
    return Identity(path=folder, kind="folder of unknown content")


def _identify_pipeline(folder: Path) -> Identity:
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name"))
    parts = {
        key: value[1]
        for key, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[1] is not None
    }
    family = None
    if name.startswith("StableDiffusionXL"):
        family = "sdxl"
    elif name.startswith("StableDiffusion") and not name.startswith("StableDiffusion3"):
        width = read_json(folder / "unet" / "config.json").get("cross_attention_dim")
        # Small models have widths of their own, and one text encoder as SD 1.5 has.
        family = "sd2" if width == 1024 else "sd15"
    return Identity(
        path=folder, kind="pipeline", family=family, details={"class": name, "parts": parts}
    )


def _identify_safetensors(path: Path) -> Identity:
    header = read_header(path)
    return identity_of_weights(path, header.shapes, header.metadata)


def identity_of_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> Identity:
    """What a weight file is, by the names and shapes of its tensors and its notes."""
    kind, family = kind_and_family(shapes)
    details: dict[str, Any] = {
        "tensors": len(shapes),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
    }
    if kind == "LoRA":
        lora = read_lora_header(shapes, metadata)
        family = lora.family
        details |= {"layout": lora.layout, "method": lora.method, "changes": list(lora.parts)}
        details |= {"rank": _range(lora.ranks)} if lora.ranks else {}
    if words := trigger_words(metadata):
        details["trigger_words"] = list(words)
    details["metadata"] = dict(metadata)
    return Identity(path=path, kind=kind, family=family, details=details)


def kind_and_family(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str | None]:
    """What weights are, by the names and shapes of their tensors."""
    kind = _kind(shapes)
    return kind, _embedding_family(shapes) if kind == "textual inversion" else _family(shapes)


def _kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if shapes and (set(shapes) <= {"clip_l", "clip_g"} or set(shapes) == _TOWERS):
        return "textual inversion"
    for kind, marks in _KINDS_BY_KEY:
        if any(mark in key for key in shapes for mark in marks):
            return kind
    if len(shapes) == 1:  # diffusers names the one tensor by its token
        ((token, shape),) = shapes.items()
        if len(shape) in (1, 2) and "." not in token:
            return "textual inversion"
    return "safetensors"


def _family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """From the width of the text states that the backbone's cross-attention reads."""
    for key, shape in shapes.items():
        if "attn2" in key and key.endswith("to_k.weight"):
            return _FAMILY_BY_TEXT_WIDTH.get(shape[-1])
        if key.endswith("to_k_ip.weight"):  # an IP-Adapter: [hidden, text width]
            return _FAMILY_BY_TEXT_WIDTH.get(shape[-1])
        if key in _FIRST_OF_T2I_ADAPTERS and len(shape) == 4:
            return _FAMILY_BY_UNSHUFFLED.get(shape[1])
    return None


def _embedding_family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """From the width of an embedding's vectors; SDXL's are a pair."""
    if "clip_g" in shapes or set(shapes) == _TOWERS:
        return "sdxl"
    widths = {shape[-1] for shape in shapes.values() if shape}
    return next((_FAMILY_BY_TEXT_WIDTH[w] for w in widths & {768, 1024}), None)


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
