"""`bdm data prepare`: measure every pair, drop what the filters say, encode the rest once.

A shard is a function of the request and of its number, so that shards can be made in any order.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion.data.buckets import Shape, bucket_shapes
from bridge_diffusion.data.filters import Filters, Measures, judge
from bridge_diffusion.data.measuring import Measurer
from bridge_diffusion.data.pairs import Pair, PairDataset, fingerprint
from bridge_diffusion.data.report import Report, report
from bridge_diffusion.data.store import publish
from bridge_diffusion.data.views import MixedPairs
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import choose_device
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.reading import read_json
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.examples import (
    autoencoder_identity,
    encode_backbone_texts,
    encode_captions,
    encode_pixels,
    english_identity,
    text_identity,
)
from bridge_diffusion.training.inspecting import write_report
from bridge_diffusion.training.opening import open_data
from bridge_diffusion.training.parts import (
    load_backbone,
    load_text_encoder,
    picture_size,
    size_step,
    text_encoder_of,
)
from bridge_diffusion.training.prepared import FORMAT, MANIFEST
from bridge_diffusion.training.shaped_pictures import encode_shaped
from bridge_diffusion.writing import clear_write_errors

_STARTED, _MEASURED, _PLAN = "started.json", "measured.jsonl", "plan.json"
SHARD_PAIRS = 1024
_CHUNK_PIXELS = 1024 * 1024  # of one forward of the autoencoder
_CHUNK_TEXTS = 64


def prepare_data(request: PrepareRequest) -> Report:
    """Write the shards, the manifest and the report, or go on where that was interrupted.

    BridgeError for parts, data or filters that do not fit, or a folder that holds something else.
    """
    work = Preparation(request)
    identity = work.identity()
    _start(request.out, identity)
    verdicts = list(judge(_measured(work), Filters.of(request)))
    result = report(" and ".join(request.data), work.dataset, verdicts)
    kept = [(one.measures.index, list(one.kept)) for one in result.kept]
    write_file(json.dumps(kept).encode(), request.out / _PLAN)
    numbers = range(-(-len(kept) // SHARD_PAIRS))
    missing = [number for number in numbers if not _shard_file(request.out, number).is_file()]
    with counting("encoding shards", len(numbers)) as count:
        for done, number in enumerate(missing, start=1):
            work.write_shard(number)
            count(len(numbers) - len(missing) + done)
    write_report(result, work.dataset, request.out)
    manifest = identity | {"fingerprint": _hash(identity), "pairs": len(kept)}
    manifest["shards"] = [_described(_shard_file(request.out, number)) for number in numbers]
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    write_file(f"{text}\n".encode(), request.out / MANIFEST)
    return result


class Preparation:
    """The data and the models of a request; each is loaded when it is needed."""

    def __init__(self, request: PrepareRequest) -> None:
        self.request = request
        self._device = choose_device(request.device)

    @cached_property
    def dataset(self) -> PairDataset:
        request = self.request
        return open_data(request.data, self.size, request.seed, request.limit)

    @cached_property
    def size(self) -> int:
        """Side of the square pictures, or of the square among their shapes, pixels."""
        return picture_size(self.request.size, self._pipe)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        if not self.request.buckets:
            return ((self.size, self.size),)
        return bucket_shapes(self.size, size_step(self._pipe))

    @cached_property
    def _pipe(self) -> Any:
        return load_backbone(self.request.model).to(self._device)

    @cached_property
    def _text(self) -> Any:
        request = self.request
        if request.text_encoder:
            text = load_text_encoder(request.text_encoder, self._pipe)
        else:
            text = text_encoder_of(str(request.bridge))
        return text.to(self._device)

    @cached_property
    def _plan(self) -> list[tuple[int, list[int]]]:
        plan: list[tuple[int, list[int]]] = json.loads((self.request.out / _PLAN).read_bytes())
        return plan

    def identity(self) -> dict[str, Any]:
        """What the shards depend on. Plain JSON values."""
        request = self.request
        filters = dataclasses.asdict(Filters.of(request))
        if request.scorer is not None:
            filters["scorer"] = _folder_hash(request.scorer)
        sources = self.dataset.weights if isinstance(self.dataset, MixedPairs) else None
        return {
            "format": FORMAT,
            "data": fingerprint(self.dataset),
            "named": list(request.data),
            "weights": sources,
            "filters": filters,
            "size": self.size,
            "buckets": [list(shape) for shape in self.shapes] if request.buckets else [],
            "models": {
                "autoencoder": autoencoder_identity(self._pipe.vae),
                "text_encoder": text_identity(self._text),
                "english": english_identity(self._pipe),
            },
        }

    def measure(self, indices: Iterable[int]) -> Iterator[Measures]:
        """What the filters look at."""
        measurer = Measurer(Filters.of(self.request), device=self._device)
        yield from measurer.measure(self.dataset, indices)

    def write_shard(self, number: int) -> None:
        """Encode the pairs of one shard and write its file, whole or not at all."""
        first = number * SHARD_PAIRS
        kept = _Kept(self.dataset, self._plan[first : first + SHARD_PAIRS])
        chunk = max(1, min(64, _CHUNK_PIXELS // self.size**2))
        items = [
            item
            for start in range(0, len(kept), chunk)
            for item in encode_shaped(
                kept, range(start, min(start + chunk, len(kept))), self.shapes, self._latents
            )
        ]
        notes = [item.note for item in items]
        if isinstance(self.dataset, MixedPairs):
            for note, (index, _) in zip(notes, kept.plan, strict=True):
                note["source"] = self.dataset.source_of(index)
        captions = sorted({"", *(text for note in notes for text in note.get("captions", ()))})
        english = sorted({"", *(note.get("english", "") for note in notes)})
        tensors = _joined("latents", [item.rows for item in items])
        tensors |= _joined("states", list(_chunked(captions, self._states)))
        tensors |= _joined("english", list(_chunked(english, self._english)))
        about = {"notes": notes, "captions": captions, "english": english}
        # One entry: several stand in the file in another order each time.
        texts = {"about": json.dumps(about, ensure_ascii=False)}
        file = _shard_file(self.request.out, number)
        with clear_write_errors(file):
            publish(file, lambda path: save_file(tensors, path, metadata=texts))

    def _latents(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels h w"]:
        return encode_pixels(self._pipe.vae, pixels.to(self._device))

    def _states(self, captions: Sequence[str]) -> list[Tensor]:
        return encode_captions(self._text, captions)

    def _english(self, texts: Sequence[str]) -> list[Tensor]:
        return list(encode_backbone_texts(self._pipe, texts).half().cpu().split(1))


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """The pairs of a shard, with the captions that are kept."""

    dataset: PairDataset
    plan: Sequence[tuple[int, list[int]]]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, place: int) -> Pair:
        index, captions = self.plan[place]
        pair = self.dataset[index]
        return dataclasses.replace(
            pair,
            captions=tuple(pair.captions[number] for number in captions),
            languages=tuple(pair.languages[n] for n in captions) if pair.languages else (),
        )


def _start(folder: Path, identity: dict[str, Any]) -> None:
    """Say in the folder what it will hold. BridgeError if it holds something else."""
    file = folder / _STARTED
    wanted = json.loads(json.dumps(identity))
    if file.is_file():
        found = read_json(file)
        changed = [name for name in wanted if found.get(name) != wanted[name] and name != "named"]
        if changed:
            raise BridgeError(
                f"{folder} was prepared with other {' and '.join(changed)}; give another --out, or "
                "delete it"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BridgeError(f"{folder} is not empty and holds no prepared data; give another --out")
    write_file(json.dumps(wanted, ensure_ascii=False, indent=1).encode(), file)


def _measured(work: Preparation) -> list[Measures]:
    """The measures of all pairs, kept so that going on need not look at them again."""
    file = work.request.out / _MEASURED
    if file.is_file():
        return [measures_from(json.loads(line)) for line in file.read_bytes().splitlines()]
    count, found = len(work.dataset), list[Measures]()
    with counting("looking at pairs", count) as told:
        for measures in work.measure(range(count)):
            found.append(measures)
            told(len(found))
    lines = [json.dumps(dataclasses.asdict(one)) for one in found]
    write_file("".join(f"{line}\n" for line in lines).encode(), file)
    return found


def measures_from(row: dict[str, Any]) -> Measures:
    """Measures that went through JSON."""
    lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return Measures(**(row | lists))


def _joined(name: str, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    some = [each for each in rows if len(each)]
    ends = torch.tensor([len(each) for each in rows], dtype=torch.int64).cumsum(0)
    return {name: torch.cat(some) if some else torch.zeros(0), f"{name}_ends": ends}


def _chunked(texts: Sequence[str], encode: Any) -> Iterator[Tensor]:
    for first in range(0, len(texts), _CHUNK_TEXTS):
        yield from encode(texts[first : first + _CHUNK_TEXTS])


def _shard_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"file": file.name, "sha256": digest}


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _hash(values: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in values.items() if k != "named"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
