"""Training a text encoder of another language for a branch that is there.

Its states shall be read by the branch as those that the bridge's own text encoder gives for the
translation are: the difference of what the branch's cross-attentions give is the loss (distillation
from parallel text, Reimers & Gurevych 2020, arXiv 2004.09813; at the place where the text is used,
as GlueGen, Qin et al. 2023, arXiv 2303.10056, aligns encoders for a frozen Stable Diffusion). No
picture is needed, and the branch stays as it is.
"""

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bridge_diffusion.bridge import Bridge, BridgeConfig
from bridge_diffusion.data.store import TensorStore
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.text.native import check_fit
from bridge_diffusion.training.branch_reading import BranchReading
from bridge_diffusion.training.task import Batch
from bridge_diffusion.training.text_encoder import retrieval
from bridge_diffusion.training.text_examples import fitting_batch, shuffled_order, split_pairs

_PICKS = 32  # queries of each layer that a step compares
_COMPARED = 16  # queries whose readings tell held-out captions apart
_EMPTY = 0.02  # part of the captions that is the empty one: guidance reads it at every step


@dataclasses.dataclass(frozen=True, slots=True)
class States:
    """What a branch reads of a batch of texts."""

    hidden: Float[Tensor, "batch tokens width"]
    """Hidden states; zero where the mask is false."""
    mask: Bool[Tensor, "batch tokens"]
    """True where the branch may attend."""


class TaughtStates:
    """Translated captions with the states of their originals. Batches by index."""

    def __init__(
        self,
        store: TensorStore,
        pairs: Sequence[tuple[str, str]],
        *,
        batch_size: int | None,
        seed: int,
        hold_out: float,
    ) -> None:
        """`store`: of `cache_texts`, with the originals; `pairs`: originals with translations.

        The empty caption means the empty one, and is 2 % of the batches.
        Raises `BridgeError` where a batch is more than the pairs to train on.
        """
        self._store, self._pairs = store, pairs
        self._places = {caption: i for i, caption in enumerate(store.notes)}
        self._training, self.held_out = split_pairs(list(range(len(pairs))), hold_out)
        self.batch_size = fitting_batch(batch_size, len(self._training))
        self._order = shuffled_order(self._training, self.batch_size, seed, _EMPTY)

    def __call__(self, index: int) -> tuple[States, list[str]]:
        picks = self._order.batch(index)
        chosen = [
            ("", "") if pick.caption is None else self._pairs[self._training[pick.index]]
            for pick in picks
        ]
        return self.states([first for first, _ in chosen]), [second for _, second in chosen]

    def states(self, originals: Sequence[str]) -> States:
        """What the bridge's own encoder gives for texts in its language."""
        rows = [self._store[self._places[text]].float() for text in originals]
        lengths = torch.tensor([len(row) for row in rows])
        hidden = pad_sequence(rows, batch_first=True)
        return States(hidden, torch.arange(hidden.shape[1]) < lengths[:, None])

    def captions(self) -> list[str]:
        """All translations that are trained on."""
        return [self._pairs[i][1] for i in self._training]

    def held_out_pairs(self) -> list[tuple[str, str]]:
        """Originals and translations that are never trained on, different ones only."""
        known = set(self.captions())
        pairs = dict.fromkeys(self._pairs[i] for i in self.held_out)
        return [pair for pair in pairs if pair[1] not in known]


class BranchTextTask:
    """Trains a text encoder for a bridge's branch; exports the bridge that the two make."""

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: Any,
        config: BridgeConfig,
        bridge: Bridge,
        reading: BranchReading,
        examples: TaughtStates,
        *,
        export_dtype: torch.dtype = torch.float32,
    ) -> None:
        """`config`: of the new bridge; its `text_encoding` says how the encoder will be used.

        Raises `BridgeError` where encoding, tokenizer and encoder do not fit together.
        """
        check_fit(encoder, tokenizer, config.text_encoding)
        self.encoder, self.tokenizer, self.config = encoder, tokenizer, config
        self.bridge, self.reading, self.examples = bridge, reading, examples
        self.export_dtype = export_dtype
        self._module = nn.ModuleDict({"text": encoder})

    @property
    def module(self) -> nn.Module:
        return self._module

    def batch(self, index: int) -> Batch:
        states, captions = self.examples(index)
        return {"hidden": states.hidden, "mask": states.mask, **self._tokens(captions)}

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The part of what tells texts apart that is read wrongly: 1 at the start, about."""
        picks = torch.randint(self.reading.count, (_PICKS,), generator=generators[0])
        read = self.reading(self._states(batch["ids"], batch["read"]), batch["read"], picks)
        with torch.no_grad():
            wanted = self.reading(batch["hidden"], batch["mask"], picks)
        return {"loss": (read - wanted).square().mean()}

    def samples(self) -> Image.Image | None:
        return None

    def export(self, folder: Path) -> None:
        """A bridge: the branch as it was, and the new text encoder.

        Beside it in `retrieval.json` how many held-out captions are read most like their own
        original among all held-out ones.
        """
        encoder = copy.deepcopy(self.encoder).to("cpu", self.export_dtype)
        text = NativeTextEncoder(encoder, self.tokenizer, self.config.text_encoding)
        branch = copy.deepcopy(self.bridge.branch).to("cpu", self.export_dtype)
        Bridge(branch, text, self.config).save_pretrained(folder)
        if pairs := self.examples.held_out_pairs():
            report = json.dumps(self.evaluate(pairs), indent=2)
            (folder / "retrieval.json").write_text(f"{report}\n", encoding="utf-8")

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[tuple[str, str]], *, at_once: int = 256) -> dict[str, float]:
        """Retrieval of pairs of original and translation with the weights as they are."""
        device = next(self.encoder.parameters()).device
        picks = torch.linspace(0, self.reading.count - 1, _COMPARED).long()
        ours, theirs = [], []
        for first in range(0, len(pairs), at_once):
            some = pairs[first : first + at_once]
            states = self.examples.states([original for original, _ in some])
            theirs.append(self.reading(states.hidden.to(device), states.mask.to(device), picks))
            tokens = {
                name: value.to(device)
                for name, value in self._tokens([text for _, text in some]).items()
            }
            ours.append(
                self.reading(self._states(tokens["ids"], tokens["read"]), tokens["read"], picks)
            )
        mean = torch.cat(theirs).mean(dim=0)  # what all texts have in common tells nothing
        read, wanted = ((torch.cat(parts) - mean).flatten(1) for parts in (ours, theirs))
        return retrieval(read, wanted, [original for original, _ in pairs])

    def _states(
        self, ids: Tensor, mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens width"]:
        return self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def _tokens(self, captions: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.config.text_encoding.window,
            return_tensors="pt",
        )
        return {"ids": tokens.input_ids, "read": tokens.attention_mask.bool()}
