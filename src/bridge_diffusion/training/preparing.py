"""`bdm data prepare`: measure every pair, drop what the filters say, encode the rest once.

OUT/
    started.json             what the folder is made from, written before all else
    measures/00000.jsonl     what is known of the pairs of a shard, written after it
    00000.safetensors        the shards
    report.html, report.json what was dropped, and why
    manifest.json            written last: a folder that has it is whole

Who makes the shards is an engine's business: this process, or a Ray cluster.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from bridge_diffusion.data.buckets import bucket_shapes
from bridge_diffusion.data.filters import Filters, Verdict, judge
from bridge_diffusion.data.pairs import PairDataset, fingerprint, glance
from bridge_diffusion.data.report import Report, report
from bridge_diffusion.data.views import MixedPairs
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import choose_device
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.reading import read_json
from bridge_diffusion.training import preparation
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.examples import (
    autoencoder_identity,
    english_identity,
    text_identity,
)
from bridge_diffusion.training.inspecting import write_report
from bridge_diffusion.training.opening import open_data
from bridge_diffusion.training.parts import picture_size, size_step
from bridge_diffusion.training.preparation import (
    Encoder,
    Job,
    Reader,
    file_hash,
    finish_shard,
    is_made,
    make_shard,
    read_measures,
)
from bridge_diffusion.training.prepared_folder import FORMAT, MANIFEST, STARTED, read_manifest
from bridge_diffusion.training.run_folder import occupied

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """Makes shards."""

    def make(self, numbers: Sequence[int]) -> Iterator[int]:
        """Make shards; gives how many pairs more are done, each time that some are."""

    def finish(self, kept: Mapping[int, Sequence[int]]) -> Iterator[dict[str, str] | None]:
        """`finish_shard` of each number, in their order."""


def prepare_data(request: PrepareRequest) -> Report:
    """Write the shards, the manifest and the report, or go on where that was interrupted.

    BridgeError for parts, data or filters that do not fit, a folder that holds something else, or
    a cluster that cannot be used.
    """
    on_ray = request.engine == "ray"
    if on_ray:
        from bridge_diffusion.ray_cluster import ray_package

        ray_package()  # said before anything is loaded
    # On a cluster this process only hashes the models.
    device = "cpu" if on_ray else choose_device(request.device)
    encoder = Encoder(request, device)
    size = picture_size(request.size, encoder.pipe)
    dataset = open_data(request.data, size, request.seed, request.limit)
    square = ((size, size),)
    job = Job(
        request=request,
        pairs=len(dataset),
        size=size,
        shapes=bucket_shapes(size, size_step(encoder.pipe)) if request.buckets else square,
        shard_pairs=preparation.SHARD_PAIRS,
        device=device,
    )
    started = _identity(job, dataset, encoder)
    _start(request.out, started)
    with occupied(request.out):
        return _prepare(job, dataset, encoder, started)


def _prepare(job: Job, dataset: PairDataset, encoder: Encoder, started: dict[str, Any]) -> Report:
    """What is left to do in a folder that is this command's."""
    request = job.request
    _drop_damaged(request.out)
    if _is_whole(job):
        return _report(job, dataset)
    missing = [number for number in job.shards if not is_made(job, number)]
    with _engine(job, dataset, encoder) as engine:
        left = sum(last - first for number in missing for first, last in job.parts(number))
        done = job.pairs - left
        with counting("preparing pairs", job.pairs) as count:
            count(done)
            for more in engine.make(missing):
                count(done := done + more)
        result = _report(job, dataset)
        shards = [each for each in engine.finish(_kept(job, result.verdicts)) if each]
    write_report(result, dataset, request.out)
    contents = [one.measures.content for one in result.verdicts]
    identity = {name: value for name, value in started.items() if name not in _OF_THE_WORK}
    identity["data"] = fingerprint(dataset, contents)
    manifest = identity | {"fingerprint": _hash(identity), "pairs": len(result.kept)}
    text = json.dumps(manifest | {"shards": shards}, ensure_ascii=False, indent=1)
    write_file(f"{text}\n".encode(), request.out / MANIFEST)
    return result


class LocalEngine:
    """Makes shards one after the other in this process."""

    def __init__(self, job: Job, dataset: PairDataset, encoder: Encoder) -> None:
        self._job, self._reader, self._encoder = job, Reader(job, dataset), encoder

    def make(self, numbers: Sequence[int]) -> Iterator[int]:
        for number in numbers:
            parts = self._job.parts(number)
            seen = (self._reader.see(*part) for part in parts)
            make_shard(self._job, number, seen, self._encoder)
            yield parts[-1][1] - parts[0][0]

    def finish(self, kept: Mapping[int, Sequence[int]]) -> Iterator[dict[str, str] | None]:
        for number, pairs in kept.items():
            yield finish_shard(self._job.request.out, number, pairs)


def _engine(job: Job, dataset: PairDataset, encoder: Encoder) -> AbstractContextManager[Engine]:
    if job.request.engine == "ray":
        from bridge_diffusion.training.preparing_on_ray import ray_engine

        return ray_engine(job)
    return nullcontext(LocalEngine(job, dataset, encoder))


#: What started.json has beside what the manifest says: the data at a glance, the work's division.
_OF_THE_WORK = frozenset({"data", "shard_pairs"})


def _identity(job: Job, dataset: PairDataset, encoder: Encoder) -> dict[str, Any]:
    """What the shards depend on, the data at a glance. Plain JSON values."""
    request = job.request
    filters = dataclasses.asdict(Filters.of(request))
    if request.scorer is not None:
        filters["scorer"] = _folder_hash(request.scorer)
    return {
        "format": FORMAT,
        "data": glance(dataset),
        "named": list(request.data),
        "weights": dataset.weights if isinstance(dataset, MixedPairs) else None,
        "filters": filters,
        "size": job.size,
        "buckets": [list(shape) for shape in job.shapes] if request.buckets else [],
        "models": {
            "autoencoder": autoencoder_identity(encoder.pipe.vae),
            "text_encoder": text_identity(encoder.text),
            "english": english_identity(encoder.pipe),
        },
        "shard_pairs": job.shard_pairs,
    }


def _start(folder: Path, identity: dict[str, Any]) -> None:
    """Say in the folder what it will hold. BridgeError if it holds something else."""
    file = folder / STARTED
    wanted = json.loads(json.dumps(identity))
    if file.is_file():
        found = read_json(file)
        if "shard_pairs" not in found:
            raise BridgeError(
                f"{folder} was prepared by an earlier version of this library, and bdm train reads "
                "it if it is whole; to prepare it anew give another --out, or delete it"
            )
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


def _drop_damaged(out: Path) -> None:
    """Delete the shards that are not what the manifest says, so that they are made anew."""
    if not (out / MANIFEST).is_file():
        return
    for each in read_manifest(out)["shards"]:
        file = out / each["file"]
        if file.is_file() and file_hash(file) != each["sha256"]:
            _log.warning("%s is damaged, and is made anew", file)
            file.unlink()


def _is_whole(job: Job) -> bool:
    """Whether nothing is left to do."""
    out = job.request.out
    if not (out / MANIFEST).is_file():
        return False
    files = [each["file"] for each in read_manifest(out)["shards"]]
    measured = (preparation.measures_file(out, number) for number in job.shards)
    return all((out / name).is_file() for name in files) and all(map(Path.is_file, measured))


def _report(job: Job, dataset: PairDataset) -> Report:
    request = job.request
    measures = [one for number in job.shards for one in read_measures(request.out, number)]
    return report(" and ".join(request.data), dataset, list(judge(measures, Filters.of(request))))


def _kept(job: Job, verdicts: Sequence[Verdict]) -> dict[int, list[int]]:
    """The pairs that are kept, by shard."""
    kept: dict[int, list[int]] = {number: [] for number in job.shards}
    for verdict in verdicts:
        if verdict.kept:
            kept[verdict.measures.index // job.shard_pairs].append(verdict.measures.index)
    return kept


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _hash(values: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in values.items() if k != "named"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
