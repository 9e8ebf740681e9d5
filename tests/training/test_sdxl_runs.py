"""Whole runs beside SDXL, by the same requests as beside Stable Diffusion 1.5."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.parts import load_backbone
from bridge_diffusion.training.preparing import prepare_data
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.training.starting import starting_bridge


@pytest.fixture
def request_for(
    sdxl_model: Path, sdxl_native_folders: list[Path], sdxl_pairs: Path, tmp_path: Path
) -> Any:
    def make(out: str, **changes: Any) -> TrainRequest:
        values = {
            "data": str(sdxl_pairs),
            "out": tmp_path / "runs" / out,
            "model": str(sdxl_model),
            "text_encoder": tuple(map(str, sdxl_native_folders)),
            "recipe": "debug",
            "size": 32,
            "device": "cpu",
            "images": 16,
        }
        return TrainRequest(**(values | changes))

    return make


@pytest.mark.parametrize("way", ["cached", "buckets", "prepared"])
def test_a_run_ends_with_the_same_bits_and_its_export_draws(
    request_for: Any,
    sdxl_model: Path,
    sdxl_native_folders: list[Path],
    sdxl_pairs: Path,
    tmp_path: Path,
    way: str,
) -> None:
    changes: dict[str, Any] = {"buckets": way == "buckets"}
    if way == "prepared":
        changes["data"] = str(tmp_path / "prepared")
        prepare_data(
            PrepareRequest(
                data=(str(sdxl_pairs),),
                out=tmp_path / "prepared",
                model=str(sdxl_model),
                text_encoder=tuple(map(str, sdxl_native_folders)),
                size=32,
                device="cpu",
            )
        )
    straight = train_branch(request_for("a", **changes))
    stopped = train_branch(request_for("b", **changes, minutes=1e-6))
    assert (straight.result.finished, stopped.result.interrupted) == (True, True)
    train_branch(request_for("b", **changes))
    a, b = (Bridge.from_pretrained(request_for(run).out / "export") for run in "ab")
    ours, theirs = a.branch.state_dict(), b.branch.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (a.config.family, a.branch.native_width, a.branch.pooled_width) == ("sdxl", 80, 48)
    assert a.config.text_encoding.pooled
    assert a.config.text_encoding.models == 2
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_model)
    pipe.set_progress_bar_config(disable=True)

    def draw(**prompt: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        return pipe(**prompt, num_inference_steps=2, generator=generator, output_type="np").images

    plain = draw(prompt="", negative_prompt="")
    a.attach(pipe)
    drawn = draw(**a.prompt("红色"))
    assert drawn.shape == (1, 32, 32, 3)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn - plain).max() > 1e-4


def test_another_second_text_encoder_is_another_run(
    request_for: Any, sdxl_model: Path, tmp_path: Path
) -> None:
    train_branch(request_for("a", images=4))
    other = StableDiffusionXLPipeline.from_pretrained(sdxl_model)
    next(other.text_encoder_2.parameters()).data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(BridgeError, match="was started with english"):
        train_branch(request_for("a", images=4, model=str(tmp_path / "other")))


def test_a_velocity_backbone_makes_a_velocity_bridge(
    request_for: Any, sdxl_model: Path, tmp_path: Path
) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_model)
    pipe.scheduler.register_to_config(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipe.save_pretrained(tmp_path / "velocity")
    run = train_branch(request_for("v", model=str(tmp_path / "velocity"), images=4))
    bridge = Bridge.from_pretrained(run.result.export)
    assert bridge.config.prediction_type == "v_prediction"
    assert bridge.config.scheduler == {"timestep_spacing": "trailing"}
    with pytest.raises(BridgeError, match="prediction_type='v_prediction'"):
        bridge.attach(StableDiffusionXLPipeline.from_pretrained(sdxl_model))


def test_a_split_branch_has_the_losses_of_a_whole_one(
    request_for: Any, launch: Any, tmp_path: Path
) -> None:
    one = request_for("one", batch_size=4, cache=tmp_path / "cache")
    train_branch(one)
    two = dataclasses.asdict(request_for("two", batch_size=2, shard=True, cache=tmp_path / "cache"))
    ended = launch(2, None, request=two)
    assert ended.codes == [0, 0], ended.errors
    curves = []
    for run in ("one", "two"):
        lines = (one.out.parent / run / "curves.jsonl").read_text().splitlines()
        curves.append([row["loss"] for row in map(json.loads, lines) if "loss" in row])
    assert curves[0]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    whole, split = (Bridge.from_pretrained(one.out.parent / r / "export") for r in ("one", "two"))
    start = starting_bridge(one, load_backbone(one.model), 5)
    before, after, other = (bridge.branch.state_dict() for bridge in (start, whole, split))
    for name, value in after.items():
        # Where a gradient is nearly 0 Adam's step is noise: a weight alone may differ by more.
        assert (other[name] - value).norm() <= 0.01 * (value - before[name]).norm(), name


def test_the_recipe_for_real_sdxl_runs_at_tiny_size(request_for: Any, tmp_path: Path) -> None:
    """bfloat16, the frozen backbone too, and activations computed again in the backward pass."""
    settings = {"batch_size": 4, "accumulate": 1, "images": 4, "log": "none"}
    request = request_for(
        "real", recipe="sdxl", precision="bf16", sample_prompt=("红色",), **settings
    )
    recipe = request.resolved().on("cpu")
    assert (recipe.precision, recipe.frozen_precision) == ("bf16", "bf16")
    assert recipe.gradient_checkpointing
    run = train_branch(request)
    plain = train_branch(request_for("plain", sample_prompt=("红色",), **settings))
    assert run.result.loss == pytest.approx(plain.result.loss, rel=0.03)
