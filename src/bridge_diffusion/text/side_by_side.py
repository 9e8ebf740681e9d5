"""Several text models that read the same tokens; their hidden states lie side by side.

SDXL's published branch reads two Chinese-CLIP text models so: 1024 and 768 features, 1792 in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from bridge_diffusion.errors import BridgeError


@dataclass(frozen=True, slots=True)
class SideBySideOutput:
    """What transformers' text models give, as far as it is read here."""

    last_hidden_state: Float[Tensor, "windows length width"]


class SideBySide(nn.Module):
    """Called as one of its models; gives the hidden states of all, joined feature by feature."""

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, **tokens: Tensor) -> SideBySideOutput:
        states = [model(**tokens).last_hidden_state for model in self.models]
        return SideBySideOutput(torch.cat(states, dim=-1))


def models_of(model: PreTrainedModel | SideBySide) -> list[PreTrainedModel]:
    """The text models of an encoder; a single one is a list of one."""
    return list(model.models) if isinstance(model, SideBySide) else [model]


def check_same_vocabulary(tokenizers: Sequence[Any]) -> None:
    """Raises `BridgeError` where the same token ids would mean other words to another model."""
    for tokenizer in tokenizers[1:]:
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise BridgeError(
                "text models side by side must share one vocabulary, for they read the same "
                "tokens: give models with the same tokenizer"
            )
