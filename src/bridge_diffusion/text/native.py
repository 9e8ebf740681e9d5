"""The native text encoder: prompts of any language => hidden states for a branch."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.reading import read_json
from bridge_diffusion.text import families
from bridge_diffusion.text.encoding import TextEncoding
from bridge_diffusion.text.side_by_side import SideBySide, check_same_vocabulary, models_of
from bridge_diffusion.text.syntax import parse_prompt
from bridge_diffusion.text.windows import (
    SpecialIds,
    WeightedTokens,
    bodies,
    join_windows,
    joined_weights,
    release_window_ids,
    tokenize_pieces,
    weigh_restoring_power,
    window_ids,
)

ENCODING_FILE = "encoding.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeEmbeddings:
    """What a branch reads of a batch of native prompts."""

    hidden: Float[Tensor, "batch tokens width"]
    """Hidden states of the joined windows; zero where the mask is false."""
    mask: Bool[Tensor, "batch tokens"]
    """True where the branch may attend. True everywhere without a padding mask."""
    pooled: Float[Tensor, "batch pooled_width"] | None
    """Hidden state of the first token of the first window, of the first model; or None."""


class NativeTextEncoder:
    """A frozen text encoder, its tokenizer, and how a bridge uses them.

    `encode` gives the embeddings that the branch's cross-attention reads. The model is in
    evaluation mode and without gradients; to train one, see `bridge_diffusion.training`.
    """

    def __init__(
        self, model: PreTrainedModel | SideBySide, tokenizer: Any, encoding: TextEncoding
    ) -> None:
        """Raises `BridgeError` where the window or the tokenizer does not fit the model."""
        models = models_of(model)
        if len(models) != encoding.models:
            raise BridgeError(
                f"got {len(models)} text models, the text encoding says {encoding.models}: give "
                "those that the bridge was trained with, in their order"
            )
        for each in models:
            check_fit(each, tokenizer, encoding)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.encoding = encoding
        self.width: int = sum(each.config.hidden_size for each in models)
        self.pooled_width: int | None = models[0].config.hidden_size if encoding.pooled else None
        self._special = _special_ids(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | Sequence[str | Path],
        encoding: TextEncoding | None = None,
        dtype: torch.dtype | None = None,
        *,
        tokenizer: str | Path | None = None,
    ) -> Self:
        """Load from a Hugging Face model folder or hub name, or from several: side by side.

        `encoding` None: the folder's `encoding.json`, else the defaults of `TextEncoding` for the
        family in its `config.json`. `dtype` None: as the files are. `tokenizer`: its folder, where
        it lies apart. Raises `BridgeError` for what cannot be read.
        """
        folders = families.model_folders(name)
        family = families.family_of(folders[0])
        encoding = encoding or _stored_encoding_of(name)
        encoding = encoding or TextEncoding(family=family, models=len(folders))
        for folder in folders:
            if (family := families.family_of(folder)) != encoding.family:
                raise BridgeError(
                    f"the bridge was trained with a text encoder of family {encoding.family!r}, "
                    f"{folder} is of family {family!r}; give the text encoder it was trained with"
                )
        models = [families.FAMILIES[family](folder, dtype) for folder in folders]
        if tokenizer is not None:
            read = families.load_tokenizer(families.model_folder(tokenizer), family)
        else:
            tokenizers = [families.load_tokenizer(folder, family) for folder in folders]
            check_same_vocabulary(tokenizers)
            read = tokenizers[0]
        return cls(models[0] if len(models) == 1 else SideBySide(models), read, encoding)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model, tokenizer and `encoding.json`, so that `from_pretrained` reads them back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        models = models_of(self.model)
        for number, model in enumerate(models, start=1):
            whole = len(models) == 1
            place = folder if whole else folder / families.side_by_side_folder(number)
            model.save_pretrained(place)
            self.tokenizer.save_pretrained(place)
        text = json.dumps(self.encoding.to_json(), ensure_ascii=False, indent=2)
        (folder / ENCODING_FILE).write_text(text + "\n", encoding="utf-8")

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move the model; returns itself."""
        self.model.to(device=device, dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def pooled_of(
        self, hidden: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch pooled_width"] | None:
        """The pooled vectors of texts without weights, from their hidden states alone."""
        return None if self.pooled_width is None else hidden[:, 0, : self.pooled_width]

    def tokenize(self, prompt: str) -> WeightedTokens:
        """Token ids and weights of a prompt; beyond the last window it is cut, with a warning."""
        own = self.encoding.special_ids == "tokenizer"
        pieces = parse_prompt(unicodedata.normalize("NFC", prompt), full_width=own)
        limit = self.encoding.max_windows * self.encoding.body
        return tokenize_pieces(pieces, self.tokenizer, limit)

    def windows(self, prompts: Sequence[str]) -> int:
        """How many windows the longest of the prompts needs."""
        return self._windows([self.tokenize(prompt) for prompt in prompts])

    def _windows(self, tokens: Sequence[WeightedTokens]) -> int:
        return max((t.windows(self.encoding.body) for t in tokens), default=1)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], windows: int | None = None) -> NativeEmbeddings:
        """Encode a batch of prompts to `windows` (L - 2) + 2 positions each.

        `windows` None: as many as the longest prompt needs. Raises `BridgeError` where `windows`
        is too few for the prompts, or more than the encoding's `max_windows`.
        """
        return self._encode(self._tokenized(prompts), windows)

    def _tokenized(self, prompts: Sequence[str]) -> list[WeightedTokens]:
        if isinstance(prompts, str) or not prompts:
            raise BridgeError(f"prompts must be a non-empty list of texts, got {prompts!r}")
        return [self.tokenize(prompt) for prompt in prompts]

    def _encode(self, tokens: Sequence[WeightedTokens], windows: int | None) -> NativeEmbeddings:
        needed = self._windows(tokens)
        windows = needed if windows is None else windows
        if not needed <= windows <= self.encoding.max_windows:
            raise BridgeError(
                f"{windows} windows were asked for; these prompts need {needed}, "
                f"at most {self.encoding.max_windows} are allowed"
            )
        samples = [self._bodies(t, windows) for t in tokens]
        parts, masks = self._forward([part for sample in samples for part in sample])
        counts = [len(sample) for sample in samples]
        rows = [
            self._joined(*sample)
            for sample in zip(parts.split(counts), masks.split(counts), tokens, strict=True)
        ]
        length = windows * self.encoding.body + 2
        hidden = parts.new_zeros(len(rows), length, parts.shape[-1])
        mask = masks.new_zeros(len(rows), length)
        for i, (row, row_mask) in enumerate(rows):
            hidden[i, : len(row)], mask[i, : len(row)] = row, row_mask
        pooled = None
        if self.encoding.pooled:
            first = [sample[0, 0, : self.pooled_width] for sample in parts.split(counts)]
            pooled = torch.stack(first)
        return NativeEmbeddings(hidden=hidden, mask=mask, pooled=pooled)

    @torch.no_grad()
    def encode_pair(
        self, prompts: Sequence[str], negatives: Sequence[str]
    ) -> tuple[NativeEmbeddings, NativeEmbeddings]:
        """Encode prompts and negative prompts, both to the number of windows the longest needs."""
        positive, negative = self._tokenized(prompts), self._tokenized(negatives)
        windows = self._windows([*positive, *negative])
        return self._encode(positive, windows), self._encode(negative, windows)

    def _bodies(self, tokens: WeightedTokens, windows: int) -> list[Sequence[int]]:
        """The ids of a prompt, split over windows. With a padding mask, empty ones are not run."""
        if self.encoding.padding_mask:
            windows = tokens.windows(self.encoding.body)
        return bodies(tokens.ids, self.encoding.body, windows)

    def _forward(
        self, parts: Sequence[Sequence[int]]
    ) -> tuple[Float[Tensor, "windows length width"], Bool[Tensor, "windows length"]]:
        """Frame each body as a window and run all windows as one batch."""
        length = self.encoding.window
        if self.encoding.special_ids == "release":
            windows = [release_window_ids(part, length) for part in parts]
        else:
            windows = [window_ids(part, length, self._special) for part in parts]
        ids = torch.tensor(windows, device=self.device)
        if not self.encoding.padding_mask:
            hidden = self.model(input_ids=ids).last_hidden_state
            return hidden, torch.ones_like(ids, dtype=torch.bool)
        lengths = torch.tensor([[len(part) + 2] for part in parts], device=self.device)
        mask = torch.arange(length, device=self.device) < lengths
        hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden * mask[..., None], mask

    def _joined(
        self,
        hidden: Float[Tensor, "windows length width"],
        mask: Bool[Tensor, "windows length"],
        tokens: WeightedTokens,
    ) -> tuple[Float[Tensor, "tokens width"], Bool[Tensor, " tokens"]]:
        """One prompt's windows as one weighted sequence."""
        row, row_mask = join_windows(hidden), join_windows(mask)
        if self.encoding.weights == "applied":
            weights = joined_weights(tokens.weights, len(row)).to(row.device)
            row[row_mask] = weigh_restoring_power(row[row_mask], weights[row_mask])
        return row, row_mask


def _stored_encoding_of(name: str | Path | Sequence[str | Path]) -> TextEncoding | None:
    """The encoding in the folder of one text encoder; loose models have none in common."""
    return stored_encoding(families.model_folder(name)) if isinstance(name, (str, Path)) else None


def stored_encoding(folder: Path) -> TextEncoding | None:
    """What `save_pretrained` wrote beside a text encoder, or None."""
    if not (folder / ENCODING_FILE).is_file():
        return None
    return TextEncoding.from_json(read_json(folder / ENCODING_FILE))


def check_fit(model: PreTrainedModel, tokenizer: Any, encoding: TextEncoding) -> None:
    """Raise `BridgeError` where the window or the tokenizer does not fit the model."""
    positions = families.usable_positions(model.config)
    if encoding.window > positions:
        raise BridgeError(
            f"text encoding: a window of {encoding.window} tokens is longer than the "
            f"{positions} positions of the text encoder; choose a smaller window"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise BridgeError(
            f"the tokenizer has {len(tokenizer)} entries, the text encoder "
            f"{model.config.vocab_size}; give the tokenizer that belongs to it"
        )
    _special_ids(tokenizer)


def _special_ids(tokenizer: Any) -> SpecialIds:
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if None in (start, end, tokenizer.pad_token_id):
        raise BridgeError(
            "the tokenizer has no start, end or padding token; native text encoders need all three "
            "(see special_tokens_map.json of its folder)"
        )
    return SpecialIds(start, end, tokenizer.pad_token_id)
