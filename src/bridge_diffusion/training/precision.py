"""The number format that a device computes fast in."""

from typing import Literal

Precision = Literal["fp32", "bf16"]


def fast_precision(device: str) -> Precision:
    """bf16 where the device has arithmetic for it, else fp32.

    A processor without it (AVX-512 at least) computes bfloat16 in steps of its own: the emoji
    world's UNet then trains thirteen times as slowly as in float32.
    """
    import torch  # here, so that `bdm train --help` does without

    kind = torch.device(device).type
    if kind == "cpu":
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    elif kind == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = False
    return "bf16" if supported else "fp32"
