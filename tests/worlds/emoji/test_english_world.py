"""The English world's stages, at the size of the debug recipe."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.seeds import sample_generators
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.train.backbone import BackboneTask, continued_unet
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


def test_the_decoder_alone_often_reads_nothing_in_training(built: WorldBuild) -> None:
    task = STAGES["unet"](built)
    assert isinstance(task, BackboneTask)
    unet, empty = task.unet, task.scenes.states[0].float()
    seen: dict[str, torch.Tensor] = {}
    blocks = {"encoder": unet.down_blocks[-1], "mid": unet.mid_block, "decoder": unet.up_blocks[0]}
    for part, block in blocks.items():
        block.attentions[0].transformer_blocks[0].attn2.register_forward_pre_hook(
            lambda _, __, kwargs, part=part: seen.update({part: kwargs["encoder_hidden_states"]}),
            with_kwargs=True,
        )
    rates, scenes = {"encoder": 0.0, "decoder": 0.0}, 0
    for index in range(60):
        batch = task.batch(index)
        task.loss(batch, sample_generators(0, 0, index * task.batch_size, task.batch_size))
        assert torch.equal(seen["mid"], seen["encoder"])
        has_none = {part: (seen[part] == empty).all(dim=(1, 2)) for part in rates}
        assert has_none["decoder"][has_none["encoder"]].all()
        same = ~has_none["decoder"]
        assert torch.equal(seen["decoder"][same], seen["encoder"][same])
        rates = {part: rates[part] + has_none[part].sum().item() for part in rates}
        scenes += len(same)
    assert rates["encoder"] / scenes == pytest.approx(0.1, abs=0.05)
    assert rates["decoder"] / scenes == pytest.approx(1 - 0.9 * 0.3, abs=0.08)


def test_the_decoder_reads_the_prompt_when_drawing(built: WorldBuild) -> None:
    task = STAGES["unet"](built)
    assert isinstance(task, BackboneTask)
    task.loss(task.batch(0), sample_generators(0, 0, 0, task.batch_size))
    stock = StableDiffusionPipeline.from_pretrained(built.exported("unet"))
    task.unet.load_state_dict(stock.unet.state_dict())
    drawn = []
    for pipe in (task.pipeline(), stock):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        drawn.append(
            pipe("dog", num_inference_steps=2, output_type="np", generator=generator).images
        )
    assert abs(drawn[0] - drawn[1]).max() < 1e-5


def test_a_stage_starts_from_exported_weights(built: WorldBuild, tmp_path: Path) -> None:
    start = built.exported("autoencoder")
    still = replace(DEBUG.stages["autoencoder"], images=8, learning_rate=1e-12, ema_decay=0.0)
    recipe = replace(DEBUG, stages={**DEBUG.stages, "autoencoder": still})
    result = WorldBuild(recipe, tmp_path, start=start).run("autoencoder")
    name = "diffusion_pytorch_model.safetensors"
    before, after = load_file(start / name), load_file(result.export / name)
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_a_unet_goes_on_from_one_with_less_attention(tmp_path: Path) -> None:
    def unet(down: str, **changes: int) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=(down, "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=2,
            **{"cross_attention_dim": 8} | changes,
        )

    older = unet("DownBlock2D")
    older.save_pretrained(tmp_path / "unet")
    newer = continued_unet(unet("CrossAttnDownBlock2D"), tmp_path)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.randn(2, 3, 8)
    with torch.no_grad():
        assert torch.equal(newer(*inputs).sample, older(*inputs).sample)
    added = newer.down_blocks[0].attentions[0]
    assert added.proj_out.weight.abs().max() == 0
    assert added.proj_in.weight.abs().max() > 0
    with pytest.raises(BridgeError, match="of another layout than the recipe's"):
        continued_unet(unet("DownBlock2D", cross_attention_dim=16), tmp_path)
    with pytest.raises(BridgeError, match="no UNet can be read in"):
        continued_unet(older, tmp_path / "nothing")


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
