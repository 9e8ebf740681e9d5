"""The three nodes: Load Bridge, Native Prompt, Apply Bridge."""

from typing import Any, ClassVar

from .attachment import Acting, attach
from .conditioning import NativeCondition, with_native_text
from .loading import DTYPES, LoadedBridge, bridge_names, bridge_path, load_bridge, register_folder

CATEGORY = "bridge diffusion"
Inputs = dict[str, dict[str, tuple[Any, ...]]]


class BridgeLoader:
    """A bridge: its branch and its native text encoder."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a bridge from models/bridges: the trained branch and its text encoder."
    FUNCTION = "load"
    RETURN_TYPES = ("BRIDGE",)
    OUTPUT_TOOLTIPS = ("For Native Prompt and Apply Bridge.",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "bridge_name": (
                    bridge_names(),
                    {"tooltip": "A folder in models/bridges, saved by bdm or published as BDM."},
                ),
                "text_encoder": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Leave empty for a bridge that brings its own. For a published "
                        "branch: the Hugging Face folder (in models/bridges or "
                        "models/text_encoders) or hub name of the text encoder that it was "
                        "trained with; for SDXL two, with a comma, the larger one first.",
                    },
                ),
                "dtype": (
                    list(DTYPES),
                    {
                        "default": "auto",
                        "tooltip": "Precision of both networks. auto: half where the device "
                        "computes in it, else float32.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, bridge_name: str, text_encoder: str, dtype: str) -> str:
        files = sorted(path for path in bridge_path(bridge_name).rglob("*") if path.is_file())
        return str([(str(path), path.stat().st_mtime_ns) for path in files])

    def load(self, bridge_name: str, text_encoder: str, dtype: str) -> tuple[LoadedBridge]:
        return (load_bridge(bridge_name, text_encoder, dtype),)


class BridgeTextEncode:
    """Native text on a conditioning."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds a prompt in the bridge's language to a conditioning. What comes in is the English "
        "that the checkpoint reads, an empty CLIP Text Encode if you have nothing to say in "
        "English. Use it for the negative prompt, too, even with an empty text."
    )
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The English and the native text together.",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "conditioning": (
                    "CONDITIONING",
                    {"tooltip": "The English that the checkpoint reads; CLIP Text Encode."},
                ),
                "bridge": ("BRIDGE", {"tooltip": "From Load Bridge."}),
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The prompt in the bridge's language. Weights as in "
                        "(词:1.3), where the bridge was trained to read them.",
                    },
                ),
            },
            "optional": {
                "windows": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 20,
                        "advanced": True,
                        "tooltip": "Long prompts pass the text encoder in windows. 0: as many as "
                        "the text needs. A published branch sees padding, too: give prompt and "
                        "negative prompt the larger number of the two for its exact pictures.",
                    },
                ),
            },
        }

    def encode(
        self, conditioning: list[Any], bridge: LoadedBridge, text: str, windows: int = 0
    ) -> tuple[list[Any]]:
        native = NativeCondition(bridge.encode(text, windows or None), bridge.name)
        return (with_native_text(conditioning, bridge.key, native),)


class BridgeApply:
    """A model that reads native text."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Lets a model read what Native Prompt adds to conditionings. LoRAs may be loaded before "
        "or after; ControlNets act beside it. Several bridges: one Apply Bridge after the other."
    )
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with the bridge, for a sampler.",)

    _PART: ClassVar[dict[str, Any]] = {"min": 0.0, "max": 1.0, "step": 0.001}

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A checkpoint of the bridge's family."}),
                "bridge": ("BRIDGE", {"tooltip": "From Load Bridge."}),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -10.0,
                        "max": 10.0,
                        "step": 0.01,
                        "tooltip": "How strongly the branch acts; 1.0 as in its training, 0.0 not.",
                    },
                ),
                "start_percent": (
                    "FLOAT",
                    {"default": 0.0, **cls._PART, "tooltip": "Where it begins; 0.0 is noise."},
                ),
                "end_percent": (
                    "FLOAT",
                    {"default": 1.0, **cls._PART, "tooltip": "Where it stops; 1.0 is the end."},
                ),
            }
        }

    def apply(
        self,
        model: Any,
        bridge: LoadedBridge,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> tuple[Any]:
        acting = Acting(strength=strength, start=start_percent, end=end_percent)
        return (attach(model, bridge, acting),)


register_folder()

NODE_CLASS_MAPPINGS = {
    "BridgeLoader": BridgeLoader,
    "BridgeTextEncode": BridgeTextEncode,
    "BridgeApply": BridgeApply,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "BridgeLoader": "Load Bridge",
    "BridgeTextEncode": "Native Prompt",
    "BridgeApply": "Apply Bridge",
}
