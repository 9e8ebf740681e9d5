"""ComfyUI finds the nodes of Bridge Diffusion here; see README.md beside this file."""

from .bridge_nodes.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
