"""What the header of a LoRA file says: who wrote it, what it trains, for which family.

Told from names, shapes and notes alone; no weight is read.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shapes = Mapping[str, tuple[int, ...]]
Layout = Literal["kohya", "dotted", "diffusers", "diffusers (old)", "peft", "unknown"]

KOHYA_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
# Names with dots, as ComfyUI and OneTrainer write them, and kohya's prefix of the same network.
_DOTTED = {
    "model.diffusion_model.": "lora_unet_",
    "diffusion_model.": "lora_unet_",
    "lora_unet.": "lora_unet_",
    "text_encoders.clip_l.transformer.": "lora_te1_",
    "text_encoders.clip_g.transformer.": "lora_te2_",
    "clip_l.": "lora_te1_",
    "clip_g.": "lora_te2_",
    "lora_te.": "lora_te_",
    "lora_te1.": "lora_te1_",
    "lora_te2.": "lora_te2_",
}
_MATRIX = re.compile(
    r"(.+?)\.((?:lora_[A-Za-z]+\.weight|hada_|lokr_|oft_|alpha|dora_scale|diff).*)"
)
_KOHYA_MATRICES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
PARTS = ("unet", "text_encoder", "text_encoder_2")
"""The networks of a pipeline that an English LoRA may change."""

_KOHYA_PARTS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
# The first line with a mark in some key names the method; the more telling marks come first. ";"
# stands for a key's end.
_METHODS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LoHa", (".hada_",)),
    ("LoKr", (".lokr_",)),
    ("OFT", (".oft_", "oft_blocks", "oft_diag")),
    ("BOFT", (".boft_",)),
    ("IA3", (".on_input", ".ia3_")),
    ("VeRA", (".vera_lambda_",)),
    ("GLoRA", (".a1.weight", ".b1.weight")),
    ("difference of whole weights", (".diff;", ".diff_b;")),
    ("LoRA with trained norms", (".w_norm", ".b_norm")),
    ("LoCon with a middle matrix", (".lora_mid.",)),
    ("DoRA", (".dora_scale", ".lora_magnitude_vector")),
)
# Keys that only LoRAs of transformer backbones (Flux, SD3, Wan ...) have.
_TRANSFORMER = ("transformer.", "lora_transformer_", "lora_te3_")
_TRANSFORMER_BLOCKS = (
    "double_blocks",
    "single_blocks",
    "joint_blocks",
    "single_transformer_blocks",
)
# Width of the text states that a UNet's cross-attention reads.
_FAMILY_BY_TEXT_WIDTH = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_FAMILY_BY_NOTE = (
    ("xl", "sdxl"),
    ("sd_v1", "sd15"),
    ("diffusion-v1", "sd15"),
    ("sd_v2", "sd2"),
    ("diffusion-v2", "sd2"),
)
_MANY_TAGS = 10  # of the tags that a LoRA was trained on, those that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraHeader:
    """What a LoRA is."""

    layout: Layout
    """How its keys are named; "dotted" is ComfyUI's and OneTrainer's way."""
    method: str
    """"LoRA", "LoCon" (it trains convolutions too), "DoRA", "LoHa", "LoKr" and the like."""
    ranks: tuple[int, ...]
    """The ranks of its matrices, each once, ascending; empty where the method has none."""
    parts: tuple[str, ...]
    """The networks that it changes: "unet", "text_encoder", "text_encoder_2"."""
    family: str | None
    """"sd15", "sd2", "sdxl" or "transformer" (Flux and the like); None where it cannot be told."""


def read_lora_header(shapes: Shapes, metadata: Mapping[str, str]) -> LoraHeader:
    """What names, shapes and notes of a LoRA say; nothing is refused here."""
    layout = _layout(shapes)
    shapes = {kohya_key(key): shape for key, shape in shapes.items()}
    return LoraHeader(
        layout=layout,
        method=_method(shapes),
        ranks=tuple(sorted({shape[0] for key, shape in shapes.items() if shape and is_down(key)})),
        parts=tuple(part for part in PARTS if any(part_of(key) == part for key in shapes)),
        family=_family(shapes) or _noted_family(metadata),
    )


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that call a LoRA or an embedding, as its notes tell them; the likeliest first.

    From `modelspec.trigger_phrase`; else the commonest tags that kohya's trainer counted.
    """
    phrase = metadata.get("modelspec.trigger_phrase", "").strip()
    if phrase:
        return tuple(word for word in (part.strip() for part in phrase.split(",")) if word)
    try:
        frequency = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in frequency.values():
            counts.update({str(tag).strip(): int(number) for tag, number in tags.items()})
    except (ValueError, TypeError, AttributeError, RecursionError):  # notes may hold anything
        return ()
    return tuple(tag for tag, _ in counts.most_common(_MANY_TAGS) if tag)


def kohya_key(key: str) -> str:
    """kohya's name of a key that ComfyUI or OneTrainer wrote; any other stays as it is."""
    for prefix, kohya in _DOTTED.items():
        if key.startswith(prefix) and (match := _MATRIX.fullmatch(key.removeprefix(prefix))):
            matrix = _KOHYA_MATRICES.get(match[2], match[2])
            return f"{kohya}{match[1].replace('.', '_')}.{matrix}"
    return key


def is_down(key: str) -> bool:
    """Whether a key names the first, narrowing matrix of a pair: its first size is the rank."""
    return key.endswith(("lora_down.weight", "lora.down.weight", "_lora.down.weight")) or (
        ".lora_A" in key or key.endswith("lora_linear_layer.down.weight")
    )


def part_of(key: str) -> str:
    """The network that a LoRA's key speaks of; a key without a prefix speaks of the UNet."""
    for prefix, part in _KOHYA_PARTS.items():
        if key.startswith(prefix):
            return part
    key = key.removeprefix("base_model.model.")
    for part in ("text_encoder_2", "text_encoder"):
        if key.startswith(f"{part}."):
            return part
    # A text encoder that was trained alone, with peft.
    return "text_encoder" if re.match(r"(text_model\.)?encoder\.layers\.", key) else "unet"


def _layout(shapes: Shapes) -> Layout:
    if any(key.startswith(KOHYA_PREFIXES) for key in shapes):
        return "kohya"
    if any(kohya_key(key) != key for key in shapes):
        return "dotted"
    if any(key.startswith("base_model.model.") for key in shapes):
        return "peft"
    if any(mark in key for key in shapes for mark in (".lora.down.", "_lora.down.", "lora_linear")):
        return "diffusers (old)"
    if any(".lora_A." in key for key in shapes):
        prefixed = any(key.startswith(("unet.", "text_encoder")) for key in shapes)
        return "diffusers" if prefixed else "peft"
    return "unknown"


def _method(shapes: Shapes) -> str:
    for method, marks in _METHODS:
        if any(mark in f"{key};" for key in shapes for mark in marks):
            return method
    convolutions = any(is_down(k) and len(s) == 4 and s[-1] > 1 for k, s in shapes.items())
    return "LoCon" if convolutions else "LoRA"


def _family(shapes: Shapes) -> str | None:
    if any(
        key.startswith(_TRANSFORMER) or any(mark in key for mark in _TRANSFORMER_BLOCKS)
        for key in shapes
    ):
        return "transformer"
    widths = {
        shape[1]
        for key, shape in shapes.items()
        if len(shape) > 1 and is_down(key) and "attn2" in key and ("to_k" in key or "to_v" in key)
    }
    if known := widths & _FAMILY_BY_TEXT_WIDTH.keys():
        return _FAMILY_BY_TEXT_WIDTH[min(known)]
    # lora_te1_ says nothing: diffusers writes it for SD 1.5 too.
    if any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in shapes):
        return "sdxl"
    return None


def _noted_family(metadata: Mapping[str, str]) -> str | None:
    noted = f"{metadata.get('modelspec.architecture')} {metadata.get('ss_base_model_version')}"
    return next((family for mark, family in _FAMILY_BY_NOTE if mark in noted), None)
