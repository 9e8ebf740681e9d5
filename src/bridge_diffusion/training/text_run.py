"""From a request to a trained native text encoder: load the parts, encode the data, train."""

import dataclasses
import json
from typing import Any

import torch

from bridge_diffusion.data.pairs import fingerprint
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import choose_device
from bridge_diffusion.generation.sources import locate_text_encoder
from bridge_diffusion.text import TextEncoding, families
from bridge_diffusion.text.from_scratch import new_bert, train_tokenizer
from bridge_diffusion.text.native import stored_encoding
from bridge_diffusion.training.branch_text import BranchTextTask
from bridge_diffusion.training.branch_text_run import branch_text_task
from bridge_diffusion.training.config import LoopConfig, seconds_in
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.opening import open_dataset
from bridge_diffusion.training.processes import Processes, joined, own_device
from bridge_diffusion.training.report import finish_run
from bridge_diffusion.training.seeds import seeded
from bridge_diffusion.training.text_encoder import (
    ContrastiveObjective,
    DistillationObjective,
    TextEncoderTask,
)
from bridge_diffusion.training.text_examples import (
    CachedTargets,
    LivePictures,
    cache_image_features,
    cache_teacher_features,
    parallel_hash,
    read_parallel_text,
)
from bridge_diffusion.training.text_request import NEW_TOWER, TextTrainRequest
from bridge_diffusion.training.text_towers import ImageTower, TeacherTower, TextTower


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextRun:
    """How a call of `train_text_encoder` ended."""

    result: TrainResult
    """The loop's own account."""
    retrieval: dict[str, float] | None
    """Retrieval of the held-out pairs ("pairs", "top1", "top5"), if there are any."""
    skipped: dict[str, str]
    """Pictures that could not be read: why, by name."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Lesson:
    """What is learned from, and towards what."""

    examples: CachedTargets | LivePictures
    objective: ContrastiveObjective | DistillationObjective
    features: int
    data: str
    """Says which data it is: a hash."""


def train_text_encoder(request: TextTrainRequest) -> TextRun:
    """Train a text encoder as asked, or go on with a run that was stopped.

    Raises `BridgeError` for parts, data or settings that do not fit, before the run's folder is
    written.
    """
    device = own_device(choose_device(request.device))
    with joined(device, request.stall_minutes) as processes:
        return _train_together(request, device, processes)


def _train_together(request: TextTrainRequest, device: str, processes: Processes) -> TextRun:
    _loop_config(request, device, processes.count, request.largest_batch)  # refuses before work
    task: TextEncoderTask | BranchTextTask
    examples: CachedTargets | LivePictures | None = None
    with processes.first_alone():
        if request.bridge is not None:
            task, details = branch_text_task(request, device, show=processes.is_first)
            batch = task.examples.batch_size
        else:
            task, details, examples = _text_encoder_task(request, device, processes)
            batch = examples.batch_size
    config = _loop_config(request, device, processes.count, batch)
    try:
        result = train(task, config, details, processes)
    except torch.OutOfMemoryError as error:
        raise BridgeError(
            f"a batch of {batch} pairs does not fit in the memory of {device}: give a "
            "smaller --batch-size"
        ) from error
    skipped = processes.merged({} if examples is None else examples.skipped)
    if processes.is_first:
        finish_run(request.out, skipped)
    report = result.export / "retrieval.json"
    return TextRun(
        result=result,
        retrieval=json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None,
        skipped=skipped,
    )


def _text_encoder_task(
    request: TextTrainRequest, device: str, processes: Processes
) -> tuple[TextEncoderTask, dict[str, Any], CachedTargets | LivePictures]:
    """What to train, what must be the same when the run is continued, and the examples."""
    find = _from_pictures if request.data else _from_translations
    lesson = find(request, device, processes)
    tower, tokenizer, encoding = _starting_encoder(request, lesson)
    task = TextEncoderTask(
        tower,
        tokenizer,
        encoding,
        lesson.examples,
        lesson.objective,
        held_out=lesson.examples.held_out,
        export_dtype=torch.float16 if request.export_precision == "fp16" else torch.float32,
    )
    return task, _details(request, lesson, tower, encoding), lesson.examples


def _loop_config(
    request: TextTrainRequest, device: str, processes: int, batch_size: int
) -> LoopConfig:
    step = batch_size * processes
    return LoopConfig(
        processes=processes,
        optimizer=request.optimizer,
        on_nan=request.on_nan,
        nan_limit=request.nan_limit,
        run_dir=request.out,
        images=request.images,
        batch_size=batch_size,
        learning_rate=request.learning_rate,
        warmup_images=request.images // 20,
        schedule="cosine",
        precision=request.precision,
        channels_last=False,
        seed=request.seed,
        log_every=max(step, request.images // 200),
        checkpoint_every=max(step, request.images // 10),
        time_limit=seconds_in(request.minutes),
        device=device,
    )


def _from_pictures(request: TextTrainRequest, device: str, processes: Processes) -> _Lesson:
    assert request.data is not None
    assert request.image_tower is not None
    if request.image_tower == NEW_TOWER:
        with seeded(request.seed):
            tower = ImageTower.new()
    else:
        tower = ImageTower.from_folder(families.model_folder(request.image_tower))
    if not request.train_image_tower:
        tower.requires_grad_(False)
    dataset = open_dataset(request.data, tower.size, request.seed, request.limit)
    data = f"{fingerprint(dataset)} seen by {module_hash(tower)}"
    if request.cached and not request.train_image_tower:
        with counting("encoding pictures", len(dataset), show=processes.is_first) as count:
            store = cache_image_features(
                request.cache_folder, dataset, tower.to(device), progress=count
            )
        features = CachedTargets(
            store, batch_size=request.batch_size, seed=request.seed, hold_out=request.hold_out
        )
        return _Lesson(features, ContrastiveObjective(processes=processes), tower.features, data)
    pictures = LivePictures(
        dataset,
        size=tower.size,
        batch_size=request.batch_size,
        seed=request.seed,
        hold_out=request.hold_out,
    )
    return _Lesson(pictures, ContrastiveObjective(tower, processes), tower.features, data)


def _from_translations(request: TextTrainRequest, device: str, processes: Processes) -> _Lesson:
    assert request.parallel is not None
    assert request.teacher is not None
    pairs = read_parallel_text(request.parallel)[: request.limit]
    teacher = TeacherTower.from_folder(
        families.model_folder(locate_text_encoder(request.teacher))
    ).to(device)
    with counting("encoding English texts", len(pairs), show=processes.is_first) as count:
        store = cache_teacher_features(request.cache_folder, pairs, teacher, progress=count)
    examples = CachedTargets(
        store, batch_size=request.batch_size, seed=request.seed, hold_out=request.hold_out
    )
    data = f"{parallel_hash(pairs)} read by {module_hash(teacher)}"
    return _Lesson(examples, DistillationObjective(), store[0].shape[-1], data)


def _starting_encoder(
    request: TextTrainRequest, lesson: _Lesson
) -> tuple[TextTower, Any, TextEncoding]:
    """The text encoder to train, its tokenizer, and how it will be used."""
    if request.start is not None:
        folder = families.model_folder(locate_text_encoder(request.start))
        encoding = stored_encoding(folder) or TextEncoding(family=families.family_of(folder))
        encoding = _with_window(encoding, request.window)
        with seeded(request.seed):
            tower = TextTower.from_folder(folder, lesson.features)
        return tower, families.load_tokenizer(folder, encoding.family), encoding
    encoding = _with_window(TextEncoding(family="bert"), request.window)
    tokenizer = train_tokenizer(lesson.examples.captions(), vocabulary=request.vocabulary)
    with seeded(request.seed):
        encoder = new_bert(
            tokenizer, width=request.new_width, layers=request.layers, positions=encoding.window
        )
        tower = TextTower(encoder, lesson.features)
    return tower, tokenizer, encoding


def _with_window(encoding: TextEncoding, window: int | None) -> TextEncoding:
    return encoding if window is None else dataclasses.replace(encoding, window=window)


def _details(
    request: TextTrainRequest, lesson: _Lesson, tower: TextTower, encoding: TextEncoding
) -> dict[str, Any]:
    """What must be the same when the run is continued. Hashes, so that folders may be moved."""
    return {
        "data": lesson.data,
        "objective": type(lesson.objective).__name__,
        "train_image_tower": request.train_image_tower,
        "hold_out": request.hold_out,
        "limit": request.limit,
        "starting_encoder": module_hash(tower),
        "text_encoding": encoding.to_json(),
    }
