"""The faster of the two ways to compute attention, for training."""

from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import AttnProcessor

_LARGEST_SIDE = 16  # of the latents; the plain way's memory grows with the fourth power


def prefer_plain_attention(net: AttentionMixin, *, latent_side: int, device: str) -> None:
    """Two matrix products and a softmax in place of torch's fused kernel: small nets on a CPU.

    The fused kernel saves memory, which small latents do not need, and in bfloat16 on a CPU it is
    slow at the head sizes of small nets: without it, the emoji world's UNet trains 1.5 times as
    fast (110 against 170 images/s on two cores, batch 64). At 32x32 latents it is the other way
    round: a step in float32 takes 1.9 times as long without the fused kernel.
    """
    if device.startswith("cpu") and latent_side <= _LARGEST_SIDE:
        net.set_attn_processor(AttnProcessor())
