"""The hook that lets a frozen backbone feel the branch: unpack, run the branch, add residuals.

Plain torch forward hooks with bound methods: they survive offloading, are copied along with a
deep-copied UNet, and leave nothing behind when removed.
"""

import inspect
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch, DownResiduals, MidResidual
from bridge_diffusion.models.pack import PackLayout, Unpacked
from bridge_diffusion.models.shared_encoder import SharedEncoder, halves_are_equal, may_share


class _Prompt(threading.local):
    """What was read from the pack of the prompt that is being drawn in this thread.

    A pipeline hands over the same tensor at every step, so it is read once a prompt.
    """

    source: "weakref.ref[Tensor] | None" = None
    version: int = 0
    pack: Unpacked | None = None
    shared: bool | None = None

    def __reduce__(self) -> tuple[type["_Prompt"], tuple[()]]:
        return _Prompt, ()  # a copy or a pickle of a hooked UNet starts afresh


class BackboneHooks:
    """Connects one branch to one UNet and to the ControlNets beside it."""

    def __init__(self, branch: BridgeBranch, layout: PackLayout) -> None:
        self.branch = branch
        self.layout = layout
        self._shared = SharedEncoder()
        self._prompt = _Prompt()
        self._modules: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []

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

    def detach(self) -> None:
        """Remove every hook: the networks are as they were."""
        self._shared.detach()
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
        if not pack.active:
            return (), call
        down, mid = self._residuals(call, pack, check=first_step or states.device.type == "cpu")
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
        if prompt.pack is not None and same and prompt.version == version:
            return prompt.pack, False
        prompt.source, prompt.version = weakref.ref(states), version
        prompt.pack, prompt.shared = self.layout.unpack(states), None
        return prompt.pack, True

    def _residuals(
        self, call: dict[str, Any], pack: Unpacked, check: bool
    ) -> tuple[DownResiduals, MidResidual]:
        """Run the branch in its own type, on the sample's device."""
        branch, sample = self.branch, call["sample"]
        if sample.ndim != 4:
            raise BridgeError(
                f"the backbone was called with a sample of {sample.ndim} dimensions; a bridge "
                "draws pictures (4 dimensions), not videos"
            )
        if branch.device != sample.device:
            branch.to(sample.device)
        added = call.get("added_cond_kwargs") or {}
        down, mid = branch(
            sample[:, : branch.config.in_channels].to(branch.dtype),
            call["timestep"],
            pack.hidden.to(branch.dtype),
            encoder_attention_mask=pack.mask,
            pooled=None if pack.pooled is None else pack.pooled.to(branch.dtype),
            time_ids=None if pack.pooled is None else added["time_ids"],
            scale=pack.scale,
        )
        if check and not bool(torch.isfinite(mid).all()):
            _explain_nan(sample, branch.dtype)
        return tuple(residual.to(sample.dtype) for residual in down), mid.to(sample.dtype)

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


def _add_residuals(call: dict[str, Any], down: DownResiduals, mid: MidResidual) -> None:
    """Add the branch's residuals to those of the ControlNets, if there are any."""
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
