"""Branches that leave the accelerator together with a UNet that the pipeline offloads.

`enable_model_cpu_offload` knows the pipeline's components, and a branch is none of them. It gives
each one an accelerate `CpuOffload`, and calls that object's `init_hook` when the next component
needs the room, and its `detach_hook` when the call of the pipeline is over. The object lives for
one call, so this one is told anew with each prompt.
"""

from collections.abc import Callable
from typing import Any

from accelerate.hooks import CpuOffload
from torch import nn


class OffloadWithUNet:
    """Calls a function whenever accelerate takes the UNet off the device."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._hook: CpuOffload | None = None

    def follow(self, unet: nn.Module) -> None:
        """Follow the UNet's present offload hook; nothing to do where it has none."""
        hook = getattr(unet, "_hf_hook", None)
        if hook is self._hook:
            return
        self.stop()
        if isinstance(hook, CpuOffload):
            self._hook = hook
            hook.init_hook = self._init_hook
            hook.detach_hook = self._detach_hook

    def stop(self) -> None:
        """Leave the offload hook as accelerate made it."""
        if self._hook is not None:
            del self._hook.init_hook, self._hook.detach_hook
            self._hook = None

    def _init_hook(self, unet: nn.Module) -> Any:
        self._leave()
        assert self._hook is not None
        return CpuOffload.init_hook(self._hook, unet)

    def _detach_hook(self, unet: nn.Module) -> Any:
        self._leave()
        assert self._hook is not None
        return CpuOffload.detach_hook(self._hook, unet)
