"""The networks of a bridge: the branch, its connection to a backbone, and its files."""

from bridge_diffusion.models.backbone import BackboneHooks
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.models.convert import read_branch, write_published
from bridge_diffusion.models.pack import NativePart, PackLayout, Segment, Unpacked
from bridge_diffusion.models.window import StepWindow

__all__ = [
    "BackboneHooks",
    "BridgeBranch",
    "NativePart",
    "PackLayout",
    "Segment",
    "StepWindow",
    "Unpacked",
    "read_branch",
    "write_published",
]
