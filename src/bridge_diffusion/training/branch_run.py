"""From a request to a trained bridge: load the parts, encode the data, train."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.pairs import PairDataset, UnreadablePicture, fingerprint
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import choose_device, load_pipeline
from bridge_diffusion.generation.sources import locate_model
from bridge_diffusion.models.config import family_of
from bridge_diffusion.training.branch import BranchOptions, BranchTask
from bridge_diffusion.training.config import LoopConfig, seconds_in
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.examples import (
    CachedExamples,
    LiveExamples,
    cache_english,
    cache_pictures,
    cache_texts,
    captions_of,
    english_of,
)
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.opening import open_dataset
from bridge_diffusion.training.probe import WorldProbe
from bridge_diffusion.training.processes import Processes, joined, own_device
from bridge_diffusion.training.recipes import BranchRecipe
from bridge_diffusion.training.report import finish_run
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.training.run_folder import check_run
from bridge_diffusion.training.starting import starting_bridge


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BranchRun:
    """How a call of `train_branch` ended."""

    result: TrainResult
    """The loop's own account."""
    pairs: int
    """Captioned pictures that were trained on."""
    skipped: dict[str, str]
    """Pictures that could not be read: why, by name."""


def train_branch(request: TrainRequest) -> BranchRun:
    """Train a branch as asked, or go on with a run that was stopped.

    BridgeError for parts, data or settings that do not fit, before anything is written.
    """
    device = own_device(choose_device(request.device))
    with joined(device, request.stall_minutes) as processes:
        return _train_together(request, device, processes)


def _train_together(request: TrainRequest, device: str, processes: Processes) -> BranchRun:
    recipe = request.resolved()
    config = loop_config(request, recipe, device, processes.count)
    pipe = _load_backbone(request.model)
    size = _picture_size(recipe, pipe)
    dataset = open_dataset(request.data, size, request.seed, recipe.limit)
    bridge = starting_bridge(request, pipe, len(dataset))
    prompts = request.sample_prompt or _sample_prompts(dataset, recipe.sample_pictures)
    details = _details(recipe, request, pipe, bridge, dataset) | {"sample_prompts": list(prompts)}
    check_run(config, details)
    options = _options(recipe, request.seed, prompts)
    probe = None
    if recipe.probe_pictures:
        probe = WorldProbe.of_data(
            request.data,
            recipe.probe_pictures,
            steps=recipe.sample_steps,
            guidance=recipe.sample_guidance,
        )
    try:
        pipe.to(device)
        bridge.text_encoder.to(device)
        examples: CachedExamples | LiveExamples
        if recipe.cached:
            with processes.first_alone():
                show = processes.is_first
                examples = _encode_once(request.cache_folder, dataset, pipe, bridge, size, show)
        else:
            examples = LiveExamples(dataset, pipe, bridge.text_encoder, size=size)
        task = BranchTask(pipe, bridge, examples, options, device=device, probe=probe)
        result = train(task, config, details, processes)
    except torch.OutOfMemoryError as error:
        raise BridgeError(
            f"a batch of {recipe.batch_size} pictures does not fit in the memory of {device}: give "
            "a smaller --batch-size, and --accumulate to keep the step as large"
        ) from error
    skipped = processes.merged(examples.skipped)
    if processes.is_first:
        finish_run(request.out, skipped)
    return BranchRun(result=result, pairs=len(examples), skipped=skipped)


def loop_config(
    request: TrainRequest, recipe: BranchRecipe, device: str, processes: int = 1
) -> LoopConfig:
    """The loop's part of a recipe, for so many processes."""
    shared = {field.name for field in dataclasses.fields(LoopConfig)}
    values = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name in shared
    }
    return LoopConfig(
        run_dir=request.out,
        seed=request.seed,
        time_limit=seconds_in(request.minutes),
        device=device,
        processes=processes,
        optimizer=request.optimizer,
        shard=request.shard,
        on_nan=request.on_nan,
        nan_limit=request.nan_limit,
        **values,
    )


def _options(recipe: BranchRecipe, seed: int, prompts: tuple[str, ...]) -> BranchOptions:
    return BranchOptions(
        batch_size=recipe.batch_size,
        seed=seed,
        caption_dropout=recipe.caption_dropout,
        english_dropout=recipe.english_dropout,
        noise_offset=recipe.noise_offset,
        lora_rank=recipe.lora_rank,
        freeze=recipe.freeze,
        frozen_precision=recipe.frozen_precision,
        min_snr_gamma=recipe.min_snr_gamma,
        timestep_logit_mean=recipe.timestep_logit_mean,
        gradient_checkpointing=recipe.gradient_checkpointing,
        export_precision=recipe.export_precision,
        sample_prompts=prompts,
        sample_steps=recipe.sample_steps,
        sample_guidance=recipe.sample_guidance,
    )


def _load_backbone(name: str | None) -> StableDiffusionPipeline:
    """The stock pipeline in float32, its safety checker left out: nothing is drawn for others."""
    source = locate_model(name) or str(name)
    pipe = load_pipeline(source, dtype=torch.float32, safety_checker=False)
    if not isinstance(pipe, StableDiffusionPipeline) or family_of(pipe.unet) != "sd15":
        raise BridgeError(
            f"--model {name} is a {type(pipe).__name__}; training knows the family of Stable "
            "Diffusion 1.5"
        )
    return pipe


def _picture_size(recipe: BranchRecipe, pipe: StableDiffusionPipeline) -> int:
    """Side of the training pictures. BridgeError if the nets cannot halve it often enough."""
    step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    size = recipe.size or pipe.unet.config.sample_size * pipe.vae_scale_factor
    if size % step:
        raise BridgeError(f"--size is {size}, it must be a multiple of {step} for this backbone")
    return int(size)


def _encode_once(
    cache: Path,
    dataset: PairDataset,
    pipe: StableDiffusionPipeline,
    bridge: Bridge,
    size: int,
    show: bool,
) -> CachedExamples:
    with counting("encoding pictures", len(dataset), show=show) as count:
        pictures = cache_pictures(cache, dataset, pipe.vae, size=size, progress=count)
    captions = captions_of(pictures)
    with counting("encoding captions", len({"", *captions}), show=show) as count:
        texts = cache_texts(cache, captions, bridge.text_encoder, progress=count)
    english = cache_english(cache, said, pipe) if (said := english_of(pictures)) else None
    return CachedExamples(pictures, texts, english)


def _sample_prompts(dataset: PairDataset, count: int) -> tuple[str, ...]:
    """Different captions from all over the data."""
    prompts: dict[str, None] = {}
    for index in range(0, len(dataset), max(1, len(dataset) // (4 * count or 1))):
        if len(prompts) == count:
            break
        try:
            prompts[dataset[index].captions[0]] = None
        except UnreadablePicture:
            continue
    return tuple(prompts)


def _details(
    recipe: BranchRecipe,
    request: TrainRequest,
    pipe: StableDiffusionPipeline,
    bridge: Bridge,
    dataset: PairDataset,
) -> dict[str, Any]:
    """What must be the same when the run is continued. Hashes, so that folders may be moved."""
    # What is off is left out, so that runs of earlier versions can go on.
    names = ("english_dropout", "noise_offset", "lora_rank", "freeze")
    chosen = {name: value for name in names if (value := getattr(recipe, name))}
    if recipe.frozen_precision != "fp32":
        chosen["frozen_precision"] = recipe.frozen_precision
    return chosen | {
        "caption_dropout": recipe.caption_dropout,
        "min_snr_gamma": recipe.min_snr_gamma,
        "timestep_logit_mean": recipe.timestep_logit_mean,
        "data": request.data if request.data.startswith("emoji:") else fingerprint(dataset),
        "size": recipe.size,
        "limit": recipe.limit,
        "backbone": module_hash(pipe.unet),
        "autoencoder": module_hash(pipe.vae),
        "text_encoder": module_hash(bridge.text_encoder.model),
        "text_encoding": bridge.text_encoder.encoding.to_json(),
        "starting_branch": module_hash(bridge.branch),
    }
