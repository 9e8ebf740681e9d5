"""The English world's stages, at the size of the debug recipe."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from safetensors.torch import load_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.train.recipes import DEBUG, find_recipe
from bridge_diffusion.worlds.emoji.train.stages import STAGES, WorldBuild

pytest.importorskip("skia", reason="drawing needs the extra `world`")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> WorldBuild:
    build = WorldBuild(DEBUG, tmp_path_factory.mktemp("world"))
    for stage in STAGES:
        assert build.run(stage).finished
    return build


def test_the_last_stage_exports_a_stock_pipeline_that_draws(built: WorldBuild) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(built.exported("unet"))
    pipe.set_progress_bar_config(disable=True)
    pixels = pipe("dog", num_inference_steps=2, output_type="np").images
    assert pixels.shape == (1, DEBUG.size, DEBUG.size, 3)
    assert pixels.std() > 0
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_latents_have_unit_variance_after_scaling(built: WorldBuild) -> None:
    vae = AutoencoderTiny.from_pretrained(built.exported("autoencoder"))
    scenes = load_file(next(built.root.glob("unet-scenes-*.safetensors")))["latents"].float()
    assert scenes.std().item() == pytest.approx(1, abs=0.15)
    assert vae.config.scaling_factor != 1


def test_the_empty_caption_is_row_zero_and_captions_are_stored_once(built: WorldBuild) -> None:
    scenes = load_file(next(built.root.glob("unet-scenes-*.safetensors")))
    assert scenes["caption_of"].min() >= 0
    assert len(scenes["states"]) <= DEBUG.scenes + 1
    empty = scenes["states"][0]
    assert not any(torch.equal(empty, state) for state in scenes["states"][1:])


def test_a_stage_starts_from_exported_weights(built: WorldBuild, tmp_path: Path) -> None:
    start = built.exported("autoencoder")
    still = replace(DEBUG.stages["autoencoder"], images=8, learning_rate=1e-12, ema_decay=0.0)
    recipe = replace(DEBUG, stages={**DEBUG.stages, "autoencoder": still})
    result = WorldBuild(recipe, tmp_path, start=start).run("autoencoder")
    name = "diffusion_pytorch_model.safetensors"
    before, after = load_file(start / name), load_file(result.export / name)
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_a_stage_without_its_predecessor_says_what_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="train the stage 'autoencoder' before"):
        WorldBuild(DEBUG, tmp_path).run("unet")


def test_unknown_names_are_told() -> None:
    with pytest.raises(BridgeError, match="debug, cpu, full"):
        find_recipe("huge")
    with pytest.raises(BridgeError, match="autoencoder, clip, unet"):
        WorldBuild(DEBUG, Path("unused")).run("vae")


def test_the_english_world_never_sees_a_native_concept() -> None:
    for name in ("debug", "cpu", "full"):
        assert not any(concept.held_out for concept in find_recipe(name).english())


def test_the_small_recipe_needs_no_more_than_what_is_drawn() -> None:
    drawn = Sprites.shipped("noto").pictures
    assert all(concept.codepoints in drawn for concept in find_recipe("cpu").bridged("zh"))
