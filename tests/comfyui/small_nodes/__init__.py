"""A node pack for the tests: models of the true layouts at small width, and text from files.

ComfyUI recognises a model by the widths in its file; these two are told to it as two more of its
own kind. Everything that runs is ComfyUI's own code.
"""

from pathlib import Path
from typing import Any, ClassVar

import comfy.sd1_clip
import comfy.supported_models
import folder_paths
from comfy.supported_models_base import ClipTarget
from safetensors.torch import load_file


class SmallClip(comfy.sd1_clip.SD1ClipModel):
    """CLIP's text model with fewer layers; its vocabulary is the true one."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        small = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        }
        options = {**(model_options or {}), "clip_l_model_config": small}
        super().__init__(device, dtype, options)


class SmallSD15(comfy.supported_models.SD15):
    """Stable Diffusion 1.5 with fewer channels."""

    unet_config: ClassVar[dict[str, Any]] = {
        **comfy.supported_models.SD15.unet_config,
        "context_dim": 32,
        "model_channels": 32,
    }

    def clip_target(self, state_dict: Any = None) -> ClipTarget:
        return ClipTarget(comfy.sd1_clip.SD1Tokenizer, SmallClip)


class SmallSDXL(comfy.supported_models.SDXL):
    """Stable Diffusion XL with fewer channels and layers."""

    unet_config: ClassVar[dict[str, Any]] = {
        **comfy.supported_models.SDXL.unet_config,
        "context_dim": 56,
        "model_channels": 32,
        "transformer_depth": [0, 2],
        "adm_in_channels": 20 + 6 * 256,
    }
    unet_extra_config: ClassVar[dict[str, Any]] = {
        **comfy.supported_models.SDXL.unet_extra_config,
        "num_head_channels": 8,
    }


comfy.supported_models.models[:0] = [SmallSD15, SmallSDXL]


class SmallText:
    """English embeddings from a file in ComfyUI's input folder."""

    CATEGORY = "tests"
    FUNCTION = "read"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"file": ("STRING", {}), "name": ("STRING", {})}}

    def read(self, file: str, name: str) -> tuple[list[Any]]:
        tensors = load_file(Path(folder_paths.get_input_directory()) / file)
        options = {}
        if f"{name}.pooled" in tensors:
            options["pooled_output"] = tensors[f"{name}.pooled"]
        return ([[tensors[name], options]],)


NODE_CLASS_MAPPINGS = {"SmallText": SmallText}
