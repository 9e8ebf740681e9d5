"""A bridge on a stock pipeline: prompting, saving, attaching, detaching."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.text import NativeTextEncoder, TextEncoding

NATIVE = "一只红色的狐狸"


def draw(pipe: StableDiffusionPipeline, call: dict[str, Any], seeds: tuple[int, ...]) -> Any:
    """Pictures of 3 steps as arrays 0..1, one CPU generator a picture."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(**call, num_inference_steps=3, generator=generators, output_type="np").images


def test_a_plain_prompt_is_bit_identical_to_stock_and_detaching_restores_it(
    bridge: Bridge, pipe: StableDiffusionPipeline
) -> None:
    plain = {"prompt": "a red fox"}
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pipe.unet.modules()]
    weights = copy.deepcopy(pipe.unet.state_dict())
    parts = dict(pipe.components)
    before = draw(pipe, plain, (1,))
    bridge.attach(pipe)
    assert pipe.components == parts
    assert np.array_equal(draw(pipe, plain, (1,)), before)
    native = draw(pipe, bridge.prompt(NATIVE), (1,))
    assert np.abs(native - before).max() > 0.01
    bridge.detach()
    assert np.array_equal(draw(pipe, plain, (1,)), before)
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pipe.unet.modules()]
    assert all(torch.equal(value, weights[key]) for key, value in pipe.unet.state_dict().items())


def test_the_same_picture_at_batch_1_and_4(attached: Bridge, pipe: StableDiffusionPipeline) -> None:
    natives = [NATIVE, "一个年轻的女子", "雪夜的灯笼", "湖水倒影,孩子们在山坡上放风筝"]
    together = draw(pipe, attached.prompt(natives, english="fox"), (1, 2, 3, 4))
    for i, native in enumerate(natives):
        alone = draw(pipe, attached.prompt(native, english="fox"), (i + 1,))
        assert np.abs(together[i] - alone[0]).max() < 1e-4


def test_each_text_has_its_say(attached: Bridge, pipe: StableDiffusionPipeline) -> None:
    plain = draw(pipe, attached.prompt(NATIVE), (1,))
    for change in (
        {"negative": "低质量"},
        {"english": "watercolor"},
        {"negative_english": "blurry"},
        {"scale": 0.5},
        {"start": 0.5},
        {"end": 0.5},
    ):
        assert np.abs(draw(pipe, attached.prompt(NATIVE, **change), (1,)) - plain).max() > 1e-4
    none = draw(pipe, attached.prompt(NATIVE, scale=0.0), (1,))
    assert np.array_equal(none, draw(pipe, {"prompt": ""}, (1,)))


def test_a_scale_for_each_picture(attached: Bridge, pipe: StableDiffusionPipeline) -> None:
    both = draw(pipe, attached.prompt([NATIVE, NATIVE], scale=[1.0, 0.3]), (1, 1))
    for i, scale in enumerate((1.0, 0.3)):
        alone = draw(pipe, attached.prompt(NATIVE, scale=scale), (1,))
        assert np.abs(both[i] - alone[0]).max() < 1e-4


def test_a_saved_bridge_loads_the_same(
    attached: Bridge, pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    want = draw(pipe, attached.prompt(NATIVE), (1,))
    attached.save_pretrained(tmp_path / "bridge")
    attached.save_pretrained(tmp_path / "bridge")  # over an older one
    attached.detach()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bridge"]
    assert sorted(path.name for path in (tmp_path / "bridge").iterdir()) == [
        "README.md",
        "branch",
        "bridge.json",
        "text_encoder",
    ]
    loaded = Bridge.from_pretrained(tmp_path / "bridge").attach(pipe)
    assert loaded.config == attached.config
    assert np.array_equal(draw(pipe, loaded.prompt(NATIVE), (1,)), want)


def test_a_failed_save_leaves_the_old_one(
    bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.save_pretrained(tmp_path / "bridge")

    def full_disk(_: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(bridge.text_encoder, "save_pretrained", full_disk)
    with pytest.raises(BridgeError, match="No space left"):
        bridge.save_pretrained(tmp_path / "bridge")
    assert [path.name for path in tmp_path.iterdir()] == ["bridge"]
    Bridge.from_pretrained(tmp_path / "bridge")


def test_a_whole_published_pipeline_folder_loads(
    reference_weights: Path, text_encoder: NativeTextEncoder
) -> None:
    bridge = Bridge.from_pretrained(reference_weights, text_encoder=text_encoder)
    assert bridge.config.scheduler["final_sigmas_type"] == "sigma_min"
    with pytest.raises(BridgeError, match="chinese-clip"):
        Bridge.from_pretrained(reference_weights)


def test_what_is_no_bridge_is_said_so(reference_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="is it the folder of a bridge"):
        Bridge.from_pretrained(reference_weights / "unet")
    with pytest.raises(BridgeError, match="not a folder"):
        Bridge.from_pretrained(tmp_path / "nowhere")


def test_a_bridge_without_a_part_is_said_so(bridge: Bridge, tmp_path: Path) -> None:
    bridge.save_pretrained(tmp_path)
    path = tmp_path / "bridge.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "native_width": 5}))
    with pytest.raises(BridgeError, match="width 48, the configuration says 5"):
        Bridge.from_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "branch")
    with pytest.raises(BridgeError, match="missing"):
        Bridge.from_pretrained(tmp_path)


def test_text_must_be_encoded_as_in_training(bridge: Bridge) -> None:
    masked = TextEncoding(family="chinese_clip")
    other = NativeTextEncoder(bridge.text_encoder.model, bridge.text_encoder.tokenizer, masked)
    with pytest.raises(BridgeError, match="load the text encoder with that encoding"):
        Bridge(bridge.branch, other, bridge.config)


def test_pipelines_that_do_not_fit_are_refused_untouched(
    bridge: Bridge, pipe: StableDiffusionPipeline
) -> None:
    sdxl = Bridge(bridge.branch, bridge.text_encoder, replace(bridge.config, family="sdxl"))
    with pytest.raises(BridgeError, match="for Stable Diffusion XL, the pipeline is of"):
        sdxl.attach(pipe)
    with pytest.raises(BridgeError, match="has no UNet"):
        bridge.attach(object())
    pipe.unet.register_to_config(block_out_channels=(32, 32))
    with pytest.raises(BridgeError, match="block_out_channels"):
        bridge.attach(pipe)
    assert not bridge.attached
    assert not pipe.unet._forward_pre_hooks


def test_a_bridge_has_one_backbone(
    attached: Bridge, pipe: StableDiffusionPipeline, reference_weights: Path
) -> None:
    other = StableDiffusionPipeline.from_pipe(pipe)
    other.unet = UNet2DConditionModel.from_pretrained(reference_weights / "unet")
    with pytest.raises(BridgeError, match="attached to another UNet"):
        attached.attach(other)
    assert attached.attach(pipe) is attached, "attaching again to the same one is harmless"


def test_a_bridge_is_never_ignored_in_silence(
    bridge: Bridge, pipe: StableDiffusionPipeline, reference_weights: Path
) -> None:
    with pytest.raises(BridgeError, match="not attached"):
        bridge.prompt(NATIVE)
    bridge.attach(pipe)
    pipe.unet = UNet2DConditionModel.from_pretrained(reference_weights / "unet")
    with pytest.raises(BridgeError, match="another UNet2DConditionModel"):
        bridge.prompt(NATIVE)


def test_mistakes_in_a_prompt_are_named(
    attached: Bridge, pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BridgeError, match="lists of 2 and 3 prompts"):
        attached.prompt([NATIVE, NATIVE], english=["a", "b", "c"])
    with pytest.raises(BridgeError, match=r"start=0\.5, end=0\.2"):
        attached.prompt(NATIVE, start=0.5, end=0.2)
    with pytest.raises(BridgeError, match="scale"):
        attached.prompt(NATIVE, scale=[1.0, 2.0])
    with pytest.raises(BridgeError, match="scale"):
        attached.prompt(NATIVE, scale=float("nan"))

    class NoCallback(StableDiffusionPipeline):
        def __call__(self, prompt_embeds: Tensor) -> None: ...

    monkeypatch.setattr(
        attached, "_pipe", NoCallback(**pipe.components, requires_safety_checker=False)
    )
    with pytest.raises(BridgeError, match="no callback_on_step_end"):
        attached.prompt(NATIVE, start=0.5)


def test_the_scheduler_is_set_by_name_only(bridge: Bridge, pipe: StableDiffusionPipeline) -> None:
    before = dict(pipe.scheduler.config)
    bridge.attach(pipe)
    assert dict(pipe.scheduler.config) == before
    scheduler = bridge.scheduler_for(pipe)
    assert scheduler.config.final_sigmas_type == "sigma_min"
    assert scheduler.config.timestep_spacing == "linspace"
    assert scheduler.config.beta_end == before["beta_end"]


def test_empty_english_computes_the_backbones_encoder_once(
    attached: Bridge, pipe: StableDiffusionPipeline
) -> None:
    batches: list[int] = []
    pipe.unet.mid_block.resnets[0].register_forward_pre_hook(
        lambda _, args: batches.append(len(args[0]))
    )
    draw(pipe, attached.prompt(NATIVE, negative="模糊"), (1,))
    assert set(batches) == {1}
    batches.clear()
    draw(pipe, attached.prompt(NATIVE, english="fox"), (1,))
    assert set(batches) == {2}
