"""The hook that lets a frozen backbone feel branches: unpack, run them, add their residuals.

Plain torch forward hooks with bound methods: they survive offloading, are copied along with a
deep-copied UNet, and leave nothing behind when removed.
"""

import inspect
import threading
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch, DownResiduals, MidResidual
from bridge_diffusion.models.offload import OffloadWithUNet
from bridge_diffusion.models.pack import MARKS, PackLayout, Segment, Unpacked, UnpackedPart
from bridge_diffusion.models.shared_encoder import SharedEncoder, halves_are_equal, may_share


class _Prompt(threading.local):
    """What was read from the pack of the prompt that is being drawn in this thread.

    A pipeline hands over the same tensor at every step, so it is read once a prompt.
    """

    layout: PackLayout | None = None
    source: "weakref.ref[Tensor] | None" = None
    version: int = 0
    pack: Unpacked | None = None
    shared: bool | None = None

    def __reduce__(self) -> tuple[type["_Prompt"], tuple[()]]:
        return _Prompt, ()  # a copy or a pickle of a hooked UNet starts afresh


class BackboneHooks:
    """Connects branches to one UNet and to the ControlNets beside it.

    The branches do not know of each other: each has its segment of the pack, and those that a
    call prompts add their residuals.
    """

    def __init__(self, english_width: int) -> None:
        """`english_width` is that of the backbone's text embeddings."""
        self.layout = PackLayout(english_width=english_width, segments=())
        self._branches: dict[Segment, BridgeBranch] = {}
        self._mark = 0
        self._shared = SharedEncoder()
        self._offload = OffloadWithUNet(self._leave_device)
        self._prompt = _Prompt()
        self._modules: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []

    def add(self, branch: BridgeBranch, native_tokens: int) -> Segment:
        """Give a branch its segment, which holds up to so many tokens, and return it.

        Raises `BridgeError` where there is no room for another branch.
        """
        taken = {segment.mark for segment in self._branches}
        following = (MARKS[(self._mark + i) % len(MARKS)] for i in range(len(MARKS)))
        mark = next((mark for mark in following if mark not in taken), None)
        if mark is None:
            raise BridgeError(f"this backbone has {len(taken)} bridges: detach one first")
        self._mark = mark  # so that a new bridge is not taken for one that was just detached
        segment = Segment(
            native_width=branch.native_width,
            native_tokens=native_tokens,
            pooled_width=branch.pooled_width,
            mark=mark,
        )
        self._set_branches({**self._branches, segment: branch})
        return segment

    def remove(self, segment: Segment) -> None:
        """Let a branch go. With the last one go the hooks: the networks are as they were."""
        self._set_branches({s: b for s, b in self._branches.items() if s != segment})
        if not self._branches:
            self._unhook()

    @property
    def branches(self) -> tuple[BridgeBranch, ...]:
        """In the order of the layout's segments."""
        return tuple(self._branches.values())

    def _set_branches(self, branches: dict[Segment, BridgeBranch]) -> None:
        self._branches = branches
        self.layout = replace(self.layout, segments=tuple(branches))

    def attach(self, unet: nn.Module, controlnets: Iterable[nn.Module] = ()) -> None:
        """Hook whatever of these is not hooked yet."""
        if not self.is_attached(unet):
            self._handles.append(
                unet.register_forward_pre_hook(self._before_unet, with_kwargs=True, prepend=True)
            )
            self._handles.append(unet.register_forward_hook(self._after_unet, always_call=True))
            if isinstance(unet, UNet2DConditionModel):  # a compiled one is not: hooks break graphs
                self._shared.attach(unet)
            self._modules.append(unet)
        for net in controlnets:
            if not self.is_attached(net):
                self._handles.append(
                    net.register_forward_pre_hook(
                        self._before_controlnet, with_kwargs=True, prepend=True
                    )
                )
                self._modules.append(net)

    def _unhook(self) -> None:
        self._shared.detach()
        self._offload.stop()
        while self._handles:
            self._handles.pop().remove()
        self._modules.clear()

    def is_attached(self, module: nn.Module) -> bool:
        return any(module is hooked for hooked in self._modules)

    def _before_controlnet(
        self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = _bound(net, args, kwargs)
        states = call["encoder_hidden_states"]
        if not self.layout.is_packed(states):
            return None
        return (), {**call, "encoder_hidden_states": self.layout.english(states)}

    def _before_unet(
        self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = _bound(unet, args, kwargs)
        states = call["encoder_hidden_states"]
        if not self.layout.is_packed(states):
            return None  # a plain prompt: the backbone alone, bit for bit
        pack, first_step = self._read(states)
        call["encoder_hidden_states"] = pack.english
        if not pack.parts:
            return (), call
        if first_step:
            self._offload.follow(unet)
        check = first_step or states.device.type == "cpu"
        residuals = [self._residuals(call, part, check) for part in pack.parts]
        for down, mid in residuals:
            _add_residuals(call, down, mid)
        if self._shares(unet, call, pack):
            self._shared.start(len(call["sample"]))
        return (), call

    def _after_unet(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._shared.stop()

    def _read(self, states: Tensor) -> tuple[Unpacked, bool]:
        """The pack's content, and whether it was read just now."""
        prompt = self._prompt
        version = 0 if states.is_inference() else states._version
        same = prompt.source is not None and prompt.source() is states
        same = same and prompt.version == version and prompt.layout is self.layout
        if prompt.pack is not None and same:
            return prompt.pack, False
        prompt.pack, prompt.shared = self.layout.unpack(states), None
        prompt.source, prompt.version = weakref.ref(states), version
        prompt.layout = self.layout
        return prompt.pack, True

    def _residuals(
        self, call: dict[str, Any], part: UnpackedPart, check: bool
    ) -> tuple[DownResiduals, MidResidual]:
        """Run a branch in its own type, on the sample's device."""
        branch, sample = self._branches[part.segment], _pictures(call["sample"])
        if branch.device != sample.device:
            branch.to(sample.device)

        def rows(value: Any) -> Any:
            return _for_each_picture(value, len(sample))

        added = call.get("added_cond_kwargs") or {}
        down, mid = branch(
            sample[:, : branch.config.in_channels].to(branch.dtype),
            rows(call["timestep"]),
            rows(part.hidden.to(branch.dtype)),
            encoder_attention_mask=rows(part.mask),
            pooled=None if part.pooled is None else rows(part.pooled.to(branch.dtype)),
            time_ids=None if part.pooled is None else rows(added["time_ids"]),
            scale=rows(part.scale),
        )
        if check and not bool(torch.isfinite(mid).all()):
            _explain_nan(sample, branch.dtype)
        return tuple(residual.to(sample.dtype) for residual in down), mid.to(sample.dtype)

    def _leave_device(self) -> None:
        for branch in self._branches.values():
            branch.to("cpu")

    def _shares(self, unet: nn.Module, call: dict[str, Any], pack: Unpacked) -> bool:
        if not self._shared.attached or not may_share(call):
            return False
        if self._prompt.shared is None:
            self._prompt.shared = halves_are_equal(unet, call, pack)
        return self._prompt.shared


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, as a new dict."""
    kind: Any = type(getattr(module, "_orig_mod", module))
    _self, *names = inspect.signature(kind.forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _pictures(
    sample: Float[Tensor, "batch channels *frames height width"],
) -> Float[Tensor, "pictures channels height width"]:
    """A video is a batch of pictures to a branch, as it is to AnimateDiff's UNet."""
    return sample if sample.ndim == 4 else sample.transpose(1, 2).flatten(0, 1)


def _for_each_picture(value: Any, pictures: int) -> Any:
    """Repeat what a video has one of for each of its frames; pipelines do it for the text only."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) in (1, pictures):
        return value
    return value.repeat_interleave(pictures // len(value), dim=0)


def _add_residuals(call: dict[str, Any], down: DownResiduals, mid: MidResidual) -> None:
    """Add a branch's residuals to those of ControlNets and other branches, if there are any."""
    other_down = call.get("down_block_additional_residuals")
    other_mid = call.get("mid_block_additional_residual")
    if other_down is not None and other_mid is not None:
        down = tuple(a + b for a, b in zip(other_down, down, strict=True))
        mid = other_mid + mid
    elif other_down is not None and call.get("down_intrablock_additional_residuals") is None:
        # T2I-Adapter's old spelling, which stock reads only while no ControlNet is there.
        call["down_intrablock_additional_residuals"] = list(other_down)
    call["down_block_additional_residuals"] = down
    call["mid_block_additional_residual"] = mid


def _explain_nan(sample: Tensor, dtype: torch.dtype) -> None:
    if not bool(torch.isfinite(sample).all()):
        raise BridgeError(
            f"the latents hold NaN or infinity before the branch sees them ({sample.dtype}): the "
            "backbone or the scheduler overflows; load the pipeline in float32 or bfloat16"
        )
    raise BridgeError(
        f"the branch gave NaN or infinity in {dtype}: load the bridge with dtype=torch.float32 "
        "or torch.bfloat16, or check its weights with `bdm doctor`"
    )
