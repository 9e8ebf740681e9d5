"""What a branch is trained on: latents of pictures, with the native text states of a caption.

Two sources of the same numbers: `LiveExamples` encodes at every step, `CachedExamples` encodes
everything once, before training, and reads it back from the disk.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bridge_diffusion.data.buckets import Shape, fit_shape
from bridge_diffusion.data.pairs import PairDataset, fingerprint
from bridge_diffusion.data.pixels import to_pixels
from bridge_diffusion.data.readable import (
    ReadablePairs,
    encode_pictures,
    readable,
    unreadable,
)
from bridge_diffusion.data.store import Item, TensorStore, build_store, module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeTextEncoder, TextEncoding
from bridge_diffusion.training.backbone import Pipeline, backbone_of, tokenizer_hash
from bridge_diffusion.training.order import Pick
from bridge_diffusion.training.shaped_pictures import encode_shaped
from bridge_diffusion.training.task import Batch

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny

#: Changes when the meaning of the stored numbers does, so that older caches are made anew.
_CACHE_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A batch as the nets read it."""

    latents: Float[Tensor, "batch channels height width"]
    """Scaled as the backbone wants them."""
    states: Float[Tensor, "batch tokens features"]
    """Hidden states of the native text encoder; zero where padded."""
    mask: Bool[Tensor, "batch tokens"]
    """True where the branch may attend."""
    english: Float[Tensor, "batch rows width"] | None
    """What the backbone reads, as `Backbone.encode_texts` gives it; None if that is "" for the
    whole batch."""
    sizes: Float[Tensor, "batch 4"] | None = None
    """Each picture's own height and width, and what was cut off above and left of it once it was
    scaled, pixels; None where it was not kept, for backbones that are not told."""


@runtime_checkable
class Examples(Protocol):
    """A source of training examples."""

    def __len__(self) -> int:
        """Number of pairs."""

    @property
    def positions(self) -> Sequence[int]:
        """Where each example stands in the data set."""

    def batch(self, picks: Sequence[Pick]) -> Batch:
        """What can be prepared in a background thread on the CPU."""

    def encoded(self, batch: Batch) -> Encoded:
        """The batch, already on its device, as the nets read it."""


class LiveExamples:
    """Encodes pictures and captions at every step; needs no disk, costs both encoders."""

    def __init__(
        self,
        dataset: PairDataset,
        pipe: Pipeline,
        text: NativeTextEncoder,
        *,
        size: int,
    ) -> None:
        self._pipe, self._text, self._size = pipe, text, size
        self._pairs, self._indices = ReadablePairs(dataset), range(len(dataset))

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def positions(self) -> Sequence[int]:
        """Where each example stands in the data set."""
        return self._indices

    @property
    def skipped(self) -> dict[str, str]:
        """Unreadable pictures met so far: why, by name."""
        return self._pairs.skipped

    def batch(self, picks: Sequence[Pick]) -> Batch:
        """Pixels, -1..1, and captions; the pair after an unreadable one stands in for it."""
        pixels, captions, english, sizes = [], [], [], []
        for pick in picks:
            pair = self._pairs.pair_among(self._indices, pick.index)
            fitted = fit_shape(pair.image, (self._size, self._size))
            pixels.append(to_pixels(fitted.image))
            sizes.append([pair.image.height, pair.image.width, *fitted.crop])
            captions.append(pick.caption_of(pair.captions))
            english.append(pick.english_of(pair.english))
        return {
            "pixels": torch.stack(pixels),
            "captions": captions,
            "english": english,
            "sizes": torch.tensor(sizes, dtype=torch.float32),
        }

    def encoded(self, batch: Batch) -> Encoded:
        prompts = [literal_prompt(text, self._text.encoding) for text in batch["captions"]]
        with torch.autocast(self._text.device.type, enabled=False):
            native = self._text.encode(prompts)
            said = any(batch["english"])
            english = encode_backbone_texts(self._pipe, batch["english"]) if said else None
        return Encoded(
            latents=encode_pixels(self._pipe.vae, batch["pixels"]),
            states=native.hidden.float(),
            mask=native.mask,
            english=english,
            sizes=batch["sizes"],
        )


class CachedExamples:
    """Latents and text states that were encoded once, read back from the disk."""

    def __init__(
        self, pictures: TensorStore, texts: TensorStore, english: TensorStore | None = None
    ) -> None:
        """Stores as `cache_pictures`, `cache_texts` and `cache_english` make them."""
        self._pictures, self._texts, self._english = pictures, texts, english
        self._usable = readable(pictures)
        self._text_of = {caption: i for i, caption in enumerate(texts.notes)}
        self._english_of = {text: i for i, text in enumerate(english.notes if english else ())}
        self.skipped = unreadable(pictures)
        """Unreadable pictures: why, by name."""

    def __len__(self) -> int:
        return len(self._usable)

    @property
    def positions(self) -> Sequence[int]:
        """Where each example stands in the data set."""
        return self._usable

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each example's latents, where they differ; a batch has one."""
        notes = (self._pictures.notes[index] for index in self._usable)
        return [tuple(note.get("shape", ())) for note in notes]

    def batch(self, picks: Sequence[Pick]) -> Batch:
        """Latents, the states of all captions padded to the longest, and the English states."""
        latents, states, english, sizes = [], [], [], []
        for pick in picks:
            index = self._usable[pick.index]
            note = self._pictures.notes[index]
            sizes.append(noted_sizes(note))
            rows = self._pictures[index]
            latents.append(rows.view(1, *note["shape"]) if "shape" in note else rows)
            states.append(self._texts[self._text_of[pick.caption_of(note["captions"])]].float())
            if self._english is not None:
                text = pick.english_of(note.get("english", ""))
                english.append(self._english[self._english_of[text]].float())
        return padded_batch(latents, states, english, sizes)

    def encoded(self, batch: Batch) -> Encoded:
        return as_encoded(batch)


def padded_batch(
    latents: Sequence[Float[Tensor, "1 channels height width"]],
    states: Sequence[Float[Tensor, "_ features"]],
    english: Sequence[Float[Tensor, "rows width"]],
    sizes: Sequence[Sequence[int]] = (),
) -> Batch:
    """What was encoded of each place of a batch, states padded to the longest.

    sizes: `noted_sizes` of each; left out if those of any picture were not kept.
    """
    lengths = torch.tensor([len(rows) for rows in states])
    batch: dict[str, Tensor] = {
        "latents": torch.cat(list(latents)).float(),
        "states": pad_sequence(list(states), batch_first=True),
        "mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }
    if english:
        batch["english"] = torch.stack(list(english))
    if sizes and all(sizes):
        batch["sizes"] = torch.tensor(sizes, dtype=torch.float32)
    return batch


def noted_sizes(note: dict[str, Any]) -> list[int]:
    """The size and the crop of a picture, [height, width, top, left]; nothing if not kept."""
    return [*note["size"], *note["crop"]] if "crop" in note else []


def as_encoded(batch: Batch) -> Encoded:
    """A padded batch, already on its device, as the nets read it."""
    return Encoded(
        latents=batch["latents"],
        states=batch["states"],
        mask=batch["mask"],
        english=batch.get("english"),
        sizes=batch.get("sizes"),
    )


Progress = Callable[[int], None]


def cache_pictures(
    cache: Path,
    dataset: PairDataset,
    vae: Autoencoder,
    *,
    size: int,
    shapes: Sequence[Shape] = (),
    progress: Progress | None = None,
) -> TensorStore:
    """Encode all pictures once. Item i: the latents of pair i, float16, with its captions.

    size: side of the square pictures in pixels; shapes: keep aspects, as `encode_shaped` does. An
    unusable pair is an item without rows that says why.
    """
    identity = {
        "what": "latents",
        "format": _CACHE_FORMAT,
        "data": fingerprint(dataset),
        **autoencoder_identity(vae),
        "size": size,
    } | ({"shapes": shapes} if shapes else {})

    def encode(indices: Sequence[int]) -> list[Item]:
        if shapes:
            return encode_shaped(dataset, indices, shapes, latents)
        return encode_pictures(dataset, indices, size, latents)

    def latents(pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch ..."]:
        return encode_pixels(vae, pixels.to(vae.device)).half()

    # A chunk is one forward of the VAE: keep its pixels to about one picture of 1024 x 1024.
    chunk = max(1, 1024 * 1024 // (size * size))
    return build_store(
        cache, identity, len(dataset), encode, chunk=min(64, chunk), progress=progress
    )


def autoencoder_identity(vae: Autoencoder) -> dict[str, Any]:
    """What latents depend on. Plain JSON values."""
    # diffusers adds entries of its own, such as the folder a model was loaded from, after "_".
    config = {key: repr(value) for key, value in sorted(vae.config.items()) if key[0] != "_"}
    return {"model": module_hash(vae), "config": config}


def text_identity(text: NativeTextEncoder) -> dict[str, Any]:
    """What the states of native texts depend on. Plain JSON values."""
    return {
        "model": module_hash(text.model),
        "tokenizer": tokenizer_hash(text.tokenizer),
        "encoding": text.encoding.to_json(),
    }


def english_identity(pipe: Pipeline) -> dict[str, Any]:
    """What the states of English texts depend on. Plain JSON values."""
    return backbone_of(pipe).text_identity()


def encode_captions(text: NativeTextEncoder, captions: Sequence[str]) -> list[Tensor]:
    """States of each caption's tokens that are attended to, [tokens, features], float16.

    The states of masked tokens are left out, which changes nothing: attention does not know their
    order. BridgeError if a value is not finite.
    """
    native = text.encode([literal_prompt(caption, text.encoding) for caption in captions])
    states = native.hidden.half()
    if not states.isfinite().all():
        raise BridgeError("the native text encoder gave values that are not finite")
    return [rows[mask].cpu() for rows, mask in zip(states, native.mask, strict=True)]


def cache_texts(
    cache: Path,
    captions: Sequence[str],
    text: NativeTextEncoder,
    *,
    progress: Progress | None = None,
) -> TensorStore:
    """Encode each different caption, and the empty one, once.

    Item i: what `encode_captions` makes of the i-th caption.
    """
    different = sorted({"", *captions}, key=lambda caption: (len(caption), caption))
    identity = {
        "what": "text states",
        "format": _CACHE_FORMAT,
        "data": hashlib.sha256(json.dumps(different).encode()).hexdigest(),
        **text_identity(text),
    }

    def encode(indices: Sequence[int]) -> list[Item]:
        chosen = [different[index] for index in indices]
        states = encode_captions(text, chosen)
        return [Item(rows, caption) for rows, caption in zip(states, chosen, strict=True)]

    return build_store(cache, identity, len(different), encode, chunk=64, progress=progress)


def cache_english(
    cache: Path,
    texts: Sequence[str],
    pipe: Pipeline,
    *,
    progress: Progress | None = None,
) -> TensorStore:
    """Encode each different English text, and the empty one, once. Item i: its states, float16."""
    different = sorted({"", *texts})
    identity = {
        "what": "English states",
        "format": _CACHE_FORMAT,
        "data": hashlib.sha256(json.dumps(different).encode()).hexdigest(),
        **english_identity(pipe),
    }

    def encode(indices: Sequence[int]) -> list[Item]:
        chosen = [different[index] for index in indices]
        states = encode_backbone_texts(pipe, chosen).half().cpu()
        return [Item(rows, text) for rows, text in zip(states, chosen, strict=True)]

    return build_store(cache, identity, len(different), encode, chunk=64, progress=progress)


@torch.no_grad()
def encode_backbone_texts(
    pipe: Pipeline, texts: Sequence[str]
) -> Float[Tensor, "batch rows width"]:
    """What the backbone reads of English texts, on the pipeline's device.

    For Stable Diffusion 1.5 that is what its cross-attention reads; see `Backbone.encode_texts`.
    """
    return backbone_of(pipe).encode_texts(texts)


def english_of(pictures: TensorStore) -> list[str]:
    """All English texts of a store that `cache_pictures` made."""
    return [note["english"] for note in pictures.notes if "english" in note]


def captions_of(pictures: TensorStore) -> list[str]:
    """All captions of a store that `cache_pictures` made."""
    return [caption for note in pictures.notes for caption in note.get("captions", ())]


@torch.no_grad()
def encode_pixels(
    vae: Autoencoder, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch channels rows columns"]:
    """Float -1..1 => latents of about unit variance, float32.

    A KL autoencoder's mean is taken: its deviation is far below the least noise of training.
    BridgeError if a value is not finite, as with SDXL's own VAE in float16.
    """
    with torch.autocast(vae.device.type, enabled=False):
        out = vae.encode(pixels.to(vae.dtype))
    latents = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = (latents.float() - shift) * vae.config.scaling_factor
    if not latents.isfinite().all():
        raise BridgeError(
            f"the VAE gave latents that are not finite in {vae.dtype}; load it in float32"
        )
    return latents


def literal_prompt(caption: str, encoding: TextEncoding) -> str:
    """A prompt whose text is the caption as it stands, whatever brackets it has.

    Captions are what people wrote about pictures; prompt syntax is for those who draw.
    """
    full_width = encoding.special_ids == "tokenizer"
    signs = r"[\\()\[\]（）［］]" if full_width else r"[\\()\[\]]"
    return re.sub(signs, lambda sign: "\\" + sign.group(), caption)
