"""A branch's residuals in the form in which ComfyUI's UNet takes those of ControlNets."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor

from bridge_diffusion import BridgeError

Control: TypeAlias = dict[str, list[Tensor | None]]
"""What ComfyUI adds while its UNet runs: "input" after each block of the encoder (T2I-Adapter),
"middle" after the middle block, "output" to the skip connections, first block first."""


def add_to_control(
    control: Mapping[str, Sequence[Tensor | None]] | None, down: Sequence[Tensor], mid: Tensor
) -> Control:
    """The sum of what ControlNets give and of a branch's residuals, in new lists.

    `down` is in the order of diffusers, the first convolution first. That is ComfyUI's order, too:
    its UNet takes "output" from the end, as it takes its skip connections. The UNet empties the
    lists that it gets, so none of `control`'s own are handed on.
    Raises `BridgeError` where a ControlNet has residuals for another number of blocks.
    """
    control = control or {}
    return {
        "input": list(control.get("input") or []),
        "middle": _added(control.get("middle") or [], [mid]),
        "output": _added(control.get("output") or [], down),
    }


def _added(theirs: Sequence[Tensor | None], ours: Sequence[Tensor]) -> list[Tensor | None]:
    if not theirs:
        return list(ours)
    if len(theirs) != len(ours):
        raise BridgeError(
            f"a ControlNet gives residuals for {len(theirs)} blocks, the bridge for {len(ours)}: "
            "is the ControlNet made for the family of this checkpoint?"
        )
    return [b if a is None else a + b for a, b in zip(theirs, ours, strict=True)]
