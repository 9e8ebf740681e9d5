"""Prompt Stable Diffusion in your own language: the Bridge Diffusion Model.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bridge_diffusion.errors import BridgeError

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge, BridgeConfig
    from bridge_diffusion.models.branch import BridgeBranch
    from bridge_diffusion.prompting import prompt_together
    from bridge_diffusion.text import NativeTextEncoder, TextEncoding

__version__ = "0.1.0"

_HOMES = {
    "Bridge": "bridge_diffusion.bridge",
    "BridgeConfig": "bridge_diffusion.bridge",
    "BridgeBranch": "bridge_diffusion.models.branch",
    "NativeTextEncoder": "bridge_diffusion.text",
    "TextEncoding": "bridge_diffusion.text",
    "prompt_together": "bridge_diffusion.prompting",
}

__all__ = [
    "Bridge",
    "BridgeBranch",
    "BridgeConfig",
    "BridgeError",
    "NativeTextEncoder",
    "TextEncoding",
    "prompt_together",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
