"""What a bridge is compared with, at the size of the debug recipe."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.seeds import sample_generators
from bridge_diffusion.worlds.emoji.baselines.adapter import AdaptedText
from bridge_diffusion.worlds.emoji.baselines.making import (
    BASELINES,
    AdapterTask,
    BaselineBuild,
    with_text_encoder,
)
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder
from bridge_diffusion.worlds.emoji.plugins.tasks import FineTuning


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(backbone_folder(), subfolder="unet")


def build(root: Path) -> BaselineBuild:
    return BaselineBuild(recipe="debug", root=root)


def loss_of(task: FineTuning) -> torch.Tensor:
    return task.loss(task.batch(0), sample_generators(0, 0, 0, task.batch_size))["loss"]


def test_a_native_model_is_an_ordinary_pipeline_folder_that_reads_the_language(
    root: Path,
) -> None:
    result = build(root).make("native")
    assert result.finished
    pipe = StableDiffusionPipeline.from_pretrained(result.export)
    pipe.set_progress_bar_config(disable=True)
    encoder = Bridge.from_pretrained(bridge_folder()).text_encoder
    native = encoder.encode(["红包"])
    states = pipe.encode_prompt(["红包"], "cpu", 1, False)[0]
    there = native.mask[0]
    torch.testing.assert_close(states[0, : there.sum()], native.hidden[0, there], atol=1e-4, rtol=0)

    def draw(prompt: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "output_type": "pt", "generator": generator}
        return pipe(prompt, **options).images

    assert not torch.equal(draw("红包"), draw("熊猫"))
    again = StableDiffusionPipeline.from_pretrained(result.export)
    assert module_hash(again.text_encoder) == module_hash(pipe.text_encoder)


def test_an_adapter_is_trained_through_models_that_stay_as_they_are(
    root: Path, unet: UNet2DConditionModel
) -> None:
    task = build(root)._task("adapter", 4)
    assert isinstance(task, AdapterTask)
    loss_of(task).backward()
    assert all(weight.grad is not None for weight in task.text.adapter.parameters())
    assert all(weight.grad is None for weight in task.unet.parameters())
    assert module_hash(task.unet) == module_hash(unet)
    task.text.adapter.eval()
    task.export(root / "exported")
    loaded = AdaptedText.load(root / "exported")
    assert torch.equal(loaded.encode(["红包"]), task.text.encode(["红包"]))
    assert loaded.encode(["红包"]).shape == (1, 32, 192)
    # A text beyond the window is cut, whatever stands beside it.
    long = "红包" * 40
    assert torch.allclose(loaded.encode([long, "红包"])[1:], loaded.encode(["红包"]), atol=1e-5)
    assert torch.equal(loaded.encode([long])[0], loaded.encode([long + "熊猫"])[0])


def test_what_each_starts_from_and_reads(root: Path, unet: UNet2DConditionModel) -> None:
    translated = build(root)._task("translated", 4)
    native = build(root)._task("native", 4)
    scratch = build(root)._task("scratch", 4)
    assert module_hash(translated.unet) == module_hash(native.unet) == module_hash(unet)
    assert module_hash(scratch.unet) != module_hash(unet)
    assert scratch.unet.config.block_out_channels == unet.config.block_out_channels
    assert all(prompt.isascii() for prompt in translated.prompts)
    assert not any(prompt.isascii() for prompt in (*native.prompts, *scratch.prompts))
    # The same scenes but for a pixel's jitter; the two native ones read the same states.
    latents = [task.scenes.latents.float().flatten() for task in (translated, native)]
    assert torch.corrcoef(torch.stack(latents))[0, 1] > 0.9
    assert torch.equal(native.scenes.states, scratch.scenes.states)
    for task in (translated, native, scratch):
        assert loss_of(task).requires_grad
        assert task.module is task.unet


def test_a_stock_pipeline_hands_the_padding_mask_to_the_native_encoder() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder())
    encoder = Bridge.from_pretrained(bridge_folder()).text_encoder
    native = with_text_encoder(pipe, encoder)
    assert native.tokenizer.model_max_length == 32
    assert native.text_encoder.config.use_attention_mask
    assert native.unet is pipe.unet


def test_unknown_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=", ".join(BASELINES)):
        build(tmp_path).make("translation")
    with pytest.raises(BridgeError, match="debug, cpu"):
        BaselineBuild(recipe="full", root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_baseline_is_as_long_as_it_is_told(tmp_path: Path) -> None:
    few = BaselineBuild(recipe="debug", root=tmp_path, images=8, limit=4)
    result = few.make("translated")
    assert result.finished
    assert result.images == 8
    (scenes,) = tmp_path.glob("scenes-en-*.safetensors")
    with safe_open(scenes, "pt") as file:
        assert file.get_slice("latents").get_shape()[0] == 4
