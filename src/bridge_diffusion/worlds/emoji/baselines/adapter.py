"""A small transformer that maps native hidden states to what the English model's UNet reads.

The way of MuLan and of PEA-Diffusion: the native encoder and the UNet stay as they are, what lies
between them is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from bridge_diffusion.text import NativeTextEncoder

ADAPTER_FOLDER, ENCODER_FOLDER = "adapter", "native_text_encoder"


class TextAdapter(ModelMixin, ConfigMixin):
    """Native states => states in the English encoder's place, token by token and all together.

    Padding is zero in the native states and is read as such: the UNet attends to all tokens, as
    it does to CLIP's padding.
    """

    @register_to_config
    def __init__(
        self, native_width: int = 192, width: int = 192, layers: int = 2, tokens: int = 32
    ) -> None:
        super().__init__()
        self.proj_in = nn.Linear(native_width, width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 48), 4 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.transformer = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.proj_out = nn.Linear(width, width)

    def forward(
        self, states: Float[Tensor, "batch tokens native_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        x = self.proj_in(states) + self.positions[: states.shape[1]]
        return self.proj_out(self.transformer(x))


@dataclass(frozen=True, slots=True)
class AdaptedText:
    """Native text => what the English model's UNet reads."""

    encoder: NativeTextEncoder
    """The bridge's own native text encoder."""
    adapter: TextAdapter
    """In evaluation mode."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        return self.adapter(native_states(self.encoder, prompts))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """What `bdm world baseline adapter` exported."""
        encoder = NativeTextEncoder.from_pretrained(folder / ENCODER_FOLDER, dtype=torch.float32)
        adapter = TextAdapter.from_pretrained(folder / ADAPTER_FOLDER, dtype=torch.float32)
        return cls(encoder.to(device), adapter.to(device).eval())


def native_states(
    encoder: NativeTextEncoder, prompts: Sequence[str]
) -> Float[Tensor, "batch tokens width"]:
    """Hidden states of the first window, zero where there is padding; what is longer is cut."""
    return encoder.encode(list(prompts)).hidden[:, : encoder.encoding.window]
