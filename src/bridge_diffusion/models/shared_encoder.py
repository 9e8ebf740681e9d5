"""The backbone's encoder half, computed once for both guidance halves where they are equal.

With an empty English prompt (the paper's way) the backbone reads the same latents, timestep and
text for the negative and for the positive half of a guidance batch; they part only where the
branch's residuals are added, after the mid block. Hooks on the down and mid blocks halve their
inputs and double their outputs; the UNet's own forward, FreeU and LoRA scales stay as they are.
"""

import threading
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bridge_diffusion.models.pack import Unpacked

# Processors that treat every sample of a batch alike. Perturbed attention (PAG) does not.
_SAMPLE_BY_SAMPLE = (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)

# Arguments of a UNet call that must be absent: they may differ between the two halves.
_MUST_BE_ABSENT = (
    "class_labels",
    "timestep_cond",
    "attention_mask",
    "encoder_attention_mask",
    "down_intrablock_additional_residuals",
)


class _Batch(threading.local):
    """Size of the batch whose halves are shared just now, None if there is none."""

    size: int | None = None

    def __reduce__(self) -> tuple[type["_Batch"], tuple[()]]:
        return _Batch, ()  # a copy or a pickle of a hooked UNet starts afresh


class SharedEncoder:
    """Hooks on the encoder half of one UNet. They do nothing until `start`."""

    def __init__(self) -> None:
        self._batch = _Batch()
        self._handles: list[RemovableHandle] = []

    def attach(self, unet: UNet2DConditionModel) -> None:
        for block in (*unet.down_blocks, unet.mid_block):
            if block is not None:
                before = block.register_forward_pre_hook(self._halve, with_kwargs=True)
                after = block.register_forward_hook(self._double)
                self._handles += [before, after]

    @property
    def attached(self) -> bool:
        return bool(self._handles)

    def detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def start(self, batch: int) -> None:
        self._batch.size = batch

    def stop(self) -> None:
        self._batch.size = None

    def _halve(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        size = self._batch.size
        if size is None:
            return None

        def half(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and len(value) == size:
                return value[: size // 2]
            return value

        return tuple(map(half, args)), {name: half(value) for name, value in kwargs.items()}

    def _double(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._batch.size is None:
            return None
        if isinstance(output, Tensor):
            return torch.cat([output, output])
        sample, skips = output
        return torch.cat([sample, sample]), tuple(torch.cat([skip, skip]) for skip in skips)


def halves_are_equal(unet: UNet2DConditionModel, call: dict[str, Any], pack: Unpacked) -> bool:
    """Whether both halves of this batch are one guidance pair that the encoder cannot tell apart.

    The pack says which rows are negative, so a batch of equal prompts without guidance, whose
    latents part after the first step, is never mistaken for a pair. Waits for the device:
    ask once a prompt, and `may_share` at every step.
    """
    sample = call["sample"]
    half, odd = divmod(len(sample), 2)
    if odd or not bool((~pack.positive[:half]).all() and pack.positive[half:].all()):
        return False
    if not all(type(p) in _SAMPLE_BY_SAMPLE for p in unet.attn_processors.values()):
        return False
    added = call.get("added_cond_kwargs") or {}
    return set(added) <= {"text_embeds", "time_ids"} and all(
        torch.equal(value[:half], value[half:]) for value in (pack.english, sample, *added.values())
    )


def may_share(call: dict[str, Any]) -> bool:
    """Whether this step's arguments allow sharing. Looks at no values, so it never waits."""
    timestep = call["timestep"]
    one_timestep = not isinstance(timestep, Tensor) or timestep.numel() == 1
    # LoRA's scale is the only attention argument known to treat every sample alike.
    attention = set(call.get("cross_attention_kwargs") or ())
    return (
        one_timestep
        and attention <= {"scale"}
        and all(call.get(name) is None for name in _MUST_BE_ABSENT)
    )
