"""Training a branch beside SDXL: the same loop and commands; what differs is told to the nets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colours import COLOURS
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from matrix.networks import NATIVE_WIDTHS, make_bridge, state_of
from matrix.oracle import BranchByHand, stock_states
from PIL import Image, ImageOps
from torch import Tensor

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.training.branch import BranchOptions, BranchTask
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.examples import (
    CachedExamples,
    Encoded,
    LiveExamples,
    cache_english,
    cache_pictures,
    cache_texts,
    captions_of,
    english_of,
)
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.opening import open_data
from bridge_diffusion.training.order import Pick
from bridge_diffusion.training.parts import load_backbone, load_text_encoder
from bridge_diffusion.training.prepared import PreparedExamples
from bridge_diffusion.training.preparing import prepare_data
from bridge_diffusion.training.seeds import sample_generators
from bridge_diffusion.training.starting import reading_width
from bridge_diffusion.training.trained_part import TrainedPart, choose_weights, merged

WIDE, ENGLISH = "黑色", "on a beach"
# Height and width, what is cut off above and left, height and width that are trained on.
SIZES = dict.fromkeys(COLOURS.values(), (32, 40, 0, 4, 32, 32))
SIZES["wide"] = (24, 64, 0, 26, 32, 32)


@pytest.fixture
def pipe(sdxl_model: Path) -> StableDiffusionXLPipeline:
    pipe = load_backbone(str(sdxl_model))
    assert type(pipe) is StableDiffusionXLPipeline
    return pipe


def new_task(pipe: Any, bridge: Bridge, pairs: Path, **options: Any) -> BranchTask:
    dataset = open_data([str(pairs)], 32, 0)
    examples = LiveExamples(dataset, pipe, bridge.text_encoder, size=32)
    settings = {"batch_size": 5, "caption_dropout": 0.0, **options}
    return BranchTask(pipe, bridge, examples, BranchOptions(**settings))


# The loss


@torch.no_grad()
def english_by_hand(pipe: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """The last states but one of both text encoders side by side, and the larger one's vector."""
    states = []
    for tokenizer, encoder in (
        (pipe.tokenizer, pipe.text_encoder),
        (pipe.tokenizer_2, pipe.text_encoder_2),
    ):
        length = tokenizer.model_max_length
        ids = tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
        output = encoder(ids.input_ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
    return torch.cat(states, dim=-1), output.text_embeds


@torch.no_grad()
def loss_by_hand(
    pipe: Any, bridge: Bridge, folders: list[Path], sdxl_pairs: Path, captions: list[str]
) -> Callable[[Tensor], float]:
    """From size numbers to the loss of a step, with no line of the library."""
    names = COLOURS | {WIDE: "wide"}
    pictures = [
        ImageOps.fit(
            Image.open(sdxl_pairs / f"{names[caption]}.png").convert("RGB"), (32, 32), Image.LANCZOS
        )
        for caption in captions
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    z = pipe.vae.encode(pixels / 127.5 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    noise, t = [], []
    for generator in sample_generators(0, 0, 0, len(captions)):
        noise.append(torch.randn(z.shape[1:], generator=generator))
        t.append(torch.randint(1000, (), generator=generator))
    noise, t = torch.stack(noise), torch.stack(t)
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000) ** 2  # Euler's own defaults, scaled
    kept = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * z + (1 - kept).sqrt() * noise
    target = noise
    if pipe.scheduler.config.prediction_type == "v_prediction":
        target = kept.sqrt() * noise - (1 - kept).sqrt() * z
    english = [ENGLISH if names[caption] == "red" else "" for caption in captions]
    states, pooled = english_by_hand(pipe, english)
    branch = BranchByHand(
        bridge.branch.config, state_of(bridge.branch), *stock_states(folders, captions)
    )

    @torch.no_grad()
    def loss(time_ids: Tensor) -> float:
        down, mid = branch(noisy, t, list(range(len(captions))), time_ids)
        predicted = pipe.unet(
            noisy,
            t,
            states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
        return float((predicted - target).square().mean())

    return loss


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_the_stock_modules_added_up(
    pipe: StableDiffusionXLPipeline,
    sdxl_native_folders: list[Path],
    sdxl_pairs: Path,
    prediction: str,
) -> None:
    pipe.scheduler.register_to_config(prediction_type=prediction)
    bridge = make_bridge("sdxl", sdxl_native_folders)
    task = new_task(pipe, bridge, sdxl_pairs)
    batch = task.batch(0)
    got = task.loss(batch, sample_generators(0, 0, 0, 5))["loss"].item()
    captions = list(batch["captions"])
    assert set(captions) == {*COLOURS, WIDE}
    by_hand = loss_by_hand(pipe, bridge, sdxl_native_folders, sdxl_pairs, captions)
    names = COLOURS | {WIDE: "wide"}
    sizes = torch.tensor([SIZES[names[caption]] for caption in captions]).float()
    assert got == pytest.approx(by_hand(sizes), rel=1e-5)
    assert got != pytest.approx(by_hand(sizes.flip(1)), rel=1e-4)


def test_a_few_pictures_are_learnt(
    pipe: StableDiffusionXLPipeline,
    sdxl_native_folders: list[Path],
    sdxl_pairs: Path,
    tmp_path: Path,
) -> None:
    start = make_bridge("sdxl", sdxl_native_folders)
    start.branch.load_state_dict(
        type(start.branch)
        .from_backbone(pipe.unet, 80, 48, torch.Generator().manual_seed(0))
        .state_dict()
    )
    task = new_task(pipe, start, sdxl_pairs)

    def loss() -> float:
        with torch.no_grad():
            losses = [
                task.loss(task.batch(i), sample_generators(7, 0, 5 * i, 5))["loss"].item()
                for i in range(4)
            ]
        return sum(losses) / len(losses)

    before = loss()
    frozen = state_of(pipe.unet)
    config = LoopConfig(
        run_dir=tmp_path / "run", images=200, batch_size=5, learning_rate=3e-3, progress=False
    )
    train(task, config)
    assert loss() < 0.8 * before
    assert all(torch.equal(value, frozen[name]) for name, value in pipe.unet.state_dict().items())


# What is encoded once


def test_encoded_once_or_prepared_is_what_live_gives(
    pipe: StableDiffusionXLPipeline,
    sdxl_model: Path,
    sdxl_native_folders: list[Path],
    sdxl_pairs: Path,
    tmp_path: Path,
) -> None:
    names = tuple(map(str, sdxl_native_folders))
    request = PrepareRequest(
        data=(str(sdxl_pairs),),
        out=tmp_path / "prepared",
        model=str(sdxl_model),
        text_encoder=names,
        size=32,
        device="cpu",
    )
    prepare_data(request)
    prepared = PreparedExamples(request.out)
    text = load_text_encoder(names, pipe)
    prepared.check(pipe, text)
    english = prepared.manifest["models"]["english"]
    assert english.keys() == {"model", "tokenizer", "model_2", "tokenizer_2"}
    dataset = open_data([str(sdxl_pairs)], 32, 0)
    live = LiveExamples(dataset, pipe, text, size=32)
    cache = tmp_path / "cache"
    pictures = cache_pictures(cache, dataset, pipe.vae, size=32, shapes=((32, 32),))
    texts = cache_texts(cache, captions_of(pictures), text)
    cached = CachedExamples(pictures, texts, cache_english(cache, english_of(pictures), pipe))
    picks = [Pick(i, 0.0) for i in range(5)]

    def rows(of: Any) -> Encoded:
        return of.encoded(of.batch(picks))

    want = rows(live)
    assert want.sizes.tolist() == [
        list(SIZES[dataset[i].key.removesuffix(".png")][:4]) for i in range(5)
    ]
    assert want.english.shape == (5, 77 + 1, 56)
    for got in (rows(cached), rows(prepared)):
        assert torch.equal(got.sizes, want.sizes)
        for name in ("latents", "english"):
            assert torch.allclose(getattr(got, name), getattr(want, name), atol=4e-3), name
        for i in range(5):
            ours, theirs = got.states[i][got.mask[i]], want.states[i][want.mask[i]]
            assert torch.allclose(ours, theirs, atol=4e-3)
        assert torch.equal(text.pooled_of(got.states), got.states[:, 0, : NATIVE_WIDTHS["sdxl"][0]])
    native = text.encode(["红色"])
    assert torch.equal(text.pooled_of(native.hidden), native.pooled)
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        weight = next(encoder.parameters())
        before = weight.data.clone()
        weight.data += 1
        with pytest.raises(BridgeError, match="English states of another backbone"):
            prepared.check(pipe, text)
        weight.data = before


# Parts of a branch


def test_a_lora_leaves_the_copied_text_attention_and_trains_the_projections(
    sdxl_native_folders: list[Path],
) -> None:
    branch = make_bridge("sdxl", sdxl_native_folders).branch
    keys = state_of(branch).keys()
    choose_weights(branch, lora_rank=2, freeze=(), seed=0)
    trained = dict(TrainedPart(branch).named_parameters())
    assert "prompt_embeds_projection.weight" in trained
    assert "pooled_prompt_embeds_projection.weight" in trained
    assert any("attn2.to_k.lora_A" in name for name in trained)
    assert not any("base_layer" in name or "add_embedding" in name for name in trained)
    assert merged(branch).state_dict().keys() == keys


def test_a_branch_is_taken_over_for_a_text_encoder_of_other_widths(
    sdxl_native_folders: list[Path],
) -> None:
    old = make_bridge("sdxl", sdxl_native_folders).branch
    assert reading_width(old, 80, pooled_width=48) is old
    new = reading_width(old, 24, torch.Generator().manual_seed(0), pooled_width=24)
    assert (new.native_width, new.pooled_width) == (24, 24)
    for name, value in new.state_dict().items():
        if "prompt_embeds_projection" in name:
            assert value.shape[1] == 24
            assert value.abs().max() > 0
        else:
            assert torch.equal(value, old.state_dict()[name]), name


def test_what_is_no_whole_model_is_refused(sdxl_model: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_model)
    StableDiffusionXLImg2ImgPipeline(**pipe.components).save_pretrained(tmp_path / "other")
    with pytest.raises(BridgeError, match="is a StableDiffusionXLImg2ImgPipeline; a branch is"):
        load_backbone(str(tmp_path / "other"))
    pipe.text_encoder = None
    pipe.save_pretrained(tmp_path / "part")
    with pytest.raises(BridgeError, match="has no text_encoder; give a whole model"):
        load_backbone(str(tmp_path / "part"))
