"""The steps of `bdm data prepare`, each a function of the job and of a shard's number.

Shard n is made of the pairs n * SHARD_PAIRS and those after it. Each is read once: its picture is
measured, judged, scaled and encoded, and what is known of it is kept beside the shard. Only which
pictures are near-duplicates of others is known at the end, when they are taken out again. So shards
can be made in any order, by any number of processes, and none is made twice.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion.data.buckets import Shape
from bridge_diffusion.data.filters import Filters, Measures, judge_alone
from bridge_diffusion.data.measuring import Measurer, of_unusable
from bridge_diffusion.data.pairs import PairDataset, UnusablePair
from bridge_diffusion.data.store import Item, publish
from bridge_diffusion.data.views import MixedPairs
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.examples import (
    encode_backbone_texts,
    encode_captions,
    encode_pixels,
)
from bridge_diffusion.training.opening import open_data
from bridge_diffusion.training.parts import load_backbone, load_named_bridge, load_text_encoder
from bridge_diffusion.training.shaped_pictures import (
    Shaped,
    encode_pictures_of_shapes,
    shape_pair,
)
from bridge_diffusion.writing import clear_write_errors

SHARD_PAIRS = 1024
_PART_PAIRS = 128  # that are read before they are encoded: 100 MB of pictures of 512x512
_CHUNK_PIXELS = 1024 * 1024  # of one forward of the autoencoder
_CHUNK_TEXTS = 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every process that prepares must know. Plain values."""

    request: PrepareRequest
    """What the user asked for."""
    pairs: int
    """Pairs of the data."""
    size: int
    """Side of the square pictures, or of the square among their shapes, pixels."""
    shapes: tuple[Shape, ...]
    """What pictures are cut to."""
    shard_pairs: int
    """Pairs that a shard is made of, but for the last."""
    device: str
    """Where to encode."""

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(-(-self.pairs // self.shard_pairs))

    def parts(self, number: int) -> list[tuple[int, int]]:
        """What is read at once of a shard's pairs: first, and the one after the last."""
        first = number * self.shard_pairs
        last = min(first + self.shard_pairs, self.pairs)
        return [(a, min(a + _PART_PAIRS, last)) for a in range(first, last, _PART_PAIRS)]


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Some pairs as they were read."""

    measures: list[Measures]
    """Of every pair."""
    shaped: list[Shaped]
    """Of those that are kept, unless they are near-duplicates of others; in their order."""


class Reader:
    """Reads pairs, judges each alone, and makes what is kept ready to be encoded."""

    def __init__(self, job: Job, dataset: PairDataset | None = None) -> None:
        """dataset: that of the job, if it is open already. BridgeError if it has changed."""
        request = job.request
        if dataset is None:
            dataset = open_data(request.data, job.size, request.seed, request.limit)
            if len(dataset) != job.pairs:
                raise BridgeError(
                    f"there were {job.pairs} pairs, and another process finds {len(dataset)}: has "
                    "the data changed, or do not all machines see the same?"
                )
        self._job, self._dataset, self._filters = job, dataset, Filters.of(request)

    @cached_property
    def _measurer(self) -> Measurer:
        return Measurer(self._filters, device=self._job.device)

    def see(self, first: int, last: int) -> Seen:
        """Read the pairs first..last-1."""
        seen = Seen([], [])
        for index in range(first, last):
            try:
                pair = self._dataset[index]
            except UnusablePair as unusable:
                seen.measures.append(of_unusable(index, unusable))
                continue
            measures = self._measurer.measured(index, pair)
            seen.measures.append(measures)
            if not (kept := judge_alone(measures, self._filters).kept):
                continue
            captions = tuple(pair.captions[number] for number in kept)
            languages = tuple(pair.languages[n] for n in kept) if pair.languages else ()
            pair = dataclasses.replace(pair, captions=captions, languages=languages)
            shaped = shape_pair(pair, self._job.shapes)
            if isinstance(self._dataset, MixedPairs):
                shaped.note["source"] = self._dataset.source_of(index)
            seen.shaped.append(shaped)
        return seen


class Encoder:
    """The models of a request; each is loaded when it is needed."""

    def __init__(self, request: PrepareRequest, device: str) -> None:
        self._request, self._device = request, device

    @cached_property
    def pipe(self) -> Any:
        """The backbone."""
        return load_backbone(self._request.model).to(self._device)

    @cached_property
    def text(self) -> Any:
        """The native text encoder."""
        request = self._request
        if request.text_encoder:
            text = load_text_encoder(request.text_encoder, self.pipe)
        else:
            text = load_named_bridge(str(request.bridge)).text_encoder
        return text.to(self._device)

    def latents(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels h w"]:
        return encode_pixels(self.pipe.vae, pixels.to(self._device))

    def states(self, captions: Sequence[str]) -> list[Tensor]:
        return encode_captions(self.text, captions)

    def english(self, texts: Sequence[str]) -> list[Tensor]:
        return list(encode_backbone_texts(self.pipe, texts).half().cpu().split(1))


def make_shard(job: Job, number: int, seen: Iterable[Seen], encoder: Encoder) -> None:
    """Encode what is kept of the pairs of a shard, and write it and their measures.

    seen: what was read of `job.parts(number)`. The measures are written last, each file whole or
    not at all. BridgeError if something cannot be written.
    """
    chunk = max(1, min(64, _CHUNK_PIXELS // job.size**2))
    measures: list[Measures] = []
    items: list[Item] = []
    for part in seen:
        measures += part.measures
        for first in range(0, len(part.shaped), chunk):
            some = part.shaped[first : first + chunk]
            items += encode_pictures_of_shapes(some, encoder.latents)
    out = job.request.out
    if items:
        captions, english = _texts_of(items)
        filters = Filters.of(job.request)
        shard = _Shard(
            pairs=[one.index for one in measures if judge_alone(one, filters).kept],
            items=items,
            states=dict(zip(captions, _chunked(captions, encoder.states), strict=True)),
            english=dict(zip(english, _chunked(english, encoder.english), strict=True)),
        )
        shard.write(shard_file(out, number))
    lines = [json.dumps(dataclasses.asdict(one)) for one in measures]
    write_file("".join(f"{line}\n" for line in lines).encode(), measures_file(out, number))


def is_made(job: Job, number: int) -> bool:
    """Whether `make_shard` has come to its end, and what it wrote is still there."""
    out, filters = job.request.out, Filters.of(job.request)
    if shard_file(out, number).is_file():
        return measures_file(out, number).is_file()
    if not measures_file(out, number).is_file():
        return False
    return not any(judge_alone(one, filters).kept for one in read_measures(out, number))


def finish_shard(out: Path, number: int, kept: Sequence[int]) -> dict[str, str] | None:
    """Take out of a shard whatever is not `kept`, pairs by position; what the manifest says of it.

    None if nothing is left of it. BridgeError if it is damaged or cannot be written.
    """
    file = shard_file(out, number)
    if not kept:
        file.unlink(missing_ok=True)
        return None
    shard = _Shard.read(file)
    if shard.pairs != list(kept):
        wanted = frozenset(kept)
        pairs = zip(shard.pairs, shard.items, strict=True)
        items = [item for index, item in pairs if index in wanted]
        dataclasses.replace(shard, pairs=list(kept), items=items).write(file)
    return {"file": file.name, "sha256": file_hash(file)}


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def shard_file(out: Path, number: int) -> Path:
    """The place of a shard."""
    return out / f"{number:05d}.safetensors"


def measures_file(out: Path, number: int) -> Path:
    """The place of what is known of a shard's pairs."""
    return out / "measures" / f"{number:05d}.jsonl"


def read_measures(out: Path, number: int) -> list[Measures]:
    """What is known of a shard's pairs. BridgeError if it cannot be read."""
    file = measures_file(out, number)
    try:
        rows = [json.loads(line) for line in file.read_bytes().splitlines()]
        return [measures_from(row) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BridgeError(
            f"{file} is damaged ({error}); delete it and give the same command again"
        ) from error


def measures_from(row: dict[str, Any]) -> Measures:
    """Measures that went through JSON."""
    lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return Measures(**(row | lists))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """What stands in a file."""

    pairs: list[int]
    """Their positions in the data."""
    items: list[Item]
    """Latents and note of each."""
    states: Mapping[str, Tensor]
    """Of the native text encoder, by caption; of more captions than the notes have, perhaps."""
    english: Mapping[str, Tensor]
    """Of the backbone's text encoder, by text."""

    def write(self, file: Path) -> None:
        captions, english = _texts_of(self.items)
        tensors = _joined("latents", [item.rows for item in self.items])
        tensors |= _joined("states", [self.states[text] for text in captions])
        tensors |= _joined("english", [self.english[text] for text in english])
        about = {
            "notes": [item.note for item in self.items],
            "captions": captions,
            "english": english,
            "pairs": self.pairs,
        }
        # One entry: several stand in the file in another order each time.
        texts = {"about": json.dumps(about, ensure_ascii=False)}
        with clear_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            publish(file, lambda path: save_file(tensors, path, metadata=texts))

    @classmethod
    def read(cls, file: Path) -> "_Shard":
        try:
            with safe_open(file, framework="pt") as opened:
                about = json.loads(opened.metadata()["about"])
                rows = {
                    name: _split(opened.get_tensor(name), opened.get_tensor(f"{name}_ends"))
                    for name in ("latents", "states", "english")
                }
            return cls(
                pairs=about["pairs"],
                items=[Item(*each) for each in zip(rows["latents"], about["notes"], strict=True)],
                states=dict(zip(about["captions"], rows["states"], strict=True)),
                english=dict(zip(about["english"], rows["english"], strict=True)),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BridgeError(
                f"{file} is damaged ({error}); delete it and give the same command again"
            ) from error


def _texts_of(items: Sequence[Item]) -> tuple[list[str], list[str]]:
    """The captions and the English texts that are encoded with some pairs."""
    captions = sorted({"", *(text for item in items for text in item.note["captions"])})
    return captions, sorted({"", *(item.note.get("english", "") for item in items)})


def _joined(name: str, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    some = [each for each in rows if len(each)]
    ends = torch.tensor([len(each) for each in rows], dtype=torch.int64).cumsum(0)
    return {name: torch.cat(some) if some else torch.zeros(0), f"{name}_ends": ends}


def _split(rows: Tensor, ends: Tensor) -> list[Tensor]:
    return [rows[a:b] for a, b in zip([0, *ends.tolist()], ends.tolist(), strict=False)]


def _chunked(texts: Sequence[str], encode: Any) -> Iterator[Tensor]:
    for first in range(0, len(texts), _CHUNK_TEXTS):
        yield from encode(texts[first : first + _CHUNK_TEXTS])
