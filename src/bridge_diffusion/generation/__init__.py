"""Pictures from prompts: the functions under `bdm generate` and under the server.

`open_model` loads what a `GenerationRequest` names; `draw` yields its pictures one by one.
"""

from bridge_diffusion.generation.request import GenerationRequest

__all__ = ["GenerationRequest"]
