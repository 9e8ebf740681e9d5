"""`bdm generate` with several ControlNets, and with T2I-Adapters."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, T2IAdapter
from PIL import Image
from safetensors.torch import load_file, save_file

from bridge_diffusion.generation.drawing import draw as draw_all
from bridge_diffusion.generation.loading import open_model
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.images.infotext import parse_infotext
from bridge_diffusion.images.metadata import read_metadata

from .conftest import again, pixels


def test_several_controlnets(
    draw: Callable, bdm: Callable, collection: Path, picture: Path, mask: Path, tmp_path: Path
) -> None:
    """Each with the picture and the scale of its place; one of scale 0 is as if it were not."""
    own = tmp_path / "own"
    shutil.copytree(collection, own)
    shutil.copytree(collection / "edges", own / "lines")
    weights = own / "lines" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 0.7 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    folder = ("--plugins", own)
    edges = ("--control-net", "edges", "--control", picture)
    lines = ("--control-net", "lines", "--control", mask)
    for words in ([], ["--init-image", picture]):
        one = draw("红包", *folder, *edges, "--control-scale", 0.5, *words)
        other = draw("红包", *folder, *lines, "--control-scale", 0.5, *words)
        scales = ("--control-scale", 0.5, "--control-scale", 0)
        first = draw("红包", *folder, *edges, *lines, *scales, *words)
        second = draw("红包", *folder, *lines, *edges, *scales, *words)
        np.testing.assert_allclose(pixels(first), pixels(one), atol=1)
        np.testing.assert_allclose(pixels(second), pixels(other), atol=1)
        assert not np.array_equal(pixels(one), pixels(other))
    path = again(bdm, draw("红包", *folder, *edges, *lines))
    parameters = parse_infotext(read_metadata(path).infotext).parameters
    assert parameters["ControlNet 0"].startswith("Module: none, Model: edges [")
    assert parameters["ControlNet 1"].startswith("Module: none, Model: lines [")
    assert read_metadata(path).record["request"]["control"] == [str(picture), str(mask)]
    kept = mask.read_bytes()
    Image.new("RGB", (16, 16), "red").save(mask)
    outcome = bdm("generate", "--from", path, "--out", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert "was drawn with --control 2 of hash" in outcome.err
    mask.write_bytes(kept)


@pytest.fixture
def adapters(model: Path, tmp_path: Path) -> Path:
    """Two T2I-Adapters for the tiny model: of colour pictures, and of pictures in grey."""
    vae = StableDiffusionPipeline.from_pretrained(model).vae_scale_factor
    for seed, (name, channels) in enumerate({"colours": 3, "sketch": 1}.items()):
        torch.manual_seed(seed)
        adapter = T2IAdapter(
            in_channels=channels, channels=(32, 64), num_res_blocks=1, downscale_factor=vae
        )
        adapter.save_pretrained(tmp_path / "adapters" / name)
    return tmp_path / "adapters"


def test_t2i_adapters(
    draw: Callable, bdm: Callable, adapters: Path, collection: Path, picture: Path, mask: Path
) -> None:
    """One or several, with and without a bridge, beside LoRA and embedding."""
    folder = ("--plugins", adapters)
    colours = ("--control-net", "colours", "--control", picture)
    sketch = ("--control-net", "sketch", "--control", mask)
    plain, one = draw("红包"), draw("红包", *folder, *colours)
    assert not np.array_equal(pixels(one), pixels(plain))
    nothing = draw("红包", *folder, *colours, "--control-scale", 0)
    np.testing.assert_allclose(pixels(nothing), pixels(plain), atol=1)
    both = again(bdm, draw("红包", *folder, *colours, *sketch))
    alone = draw("红包", *folder, *colours, *sketch, "--control-scale", 1, "--control-scale", 0)
    np.testing.assert_allclose(pixels(alone), pixels(one), atol=1)
    assert not np.array_equal(pixels(both), pixels(one))
    parameters = parse_infotext(read_metadata(both).infotext).parameters
    assert parameters["ControlNet 1"].startswith("Module: none, Model: sketch [")
    word = ("--embedding", collection / "mood.safetensors", "--lora",
            collection / "style.safetensors")  # fmt: skip
    path = again(bdm, draw("a fox mood", *folder, *colours, *word, bridge="none"))
    other = draw("a fox", *folder, *colours, *word, bridge="none")
    assert not np.array_equal(pixels(path), pixels(other))
    nothing = draw("a fox mood", *folder, *colours, *word, "--control-scale", 0, bridge="none")
    plain = draw("a fox mood", *word, bridge="none")
    np.testing.assert_allclose(pixels(nothing), pixels(plain), atol=1)


def test_what_does_not_go_with_a_t2i_adapter(
    refused: Callable, adapters: Path, collection: Path, picture: Path
) -> None:
    colours = ("--control-net", adapters / "colours", "--control", picture)
    edges = ("--control-net", collection / "edges", "--control", picture)
    assert "diffusers has no pipeline for both" in refused("红包", *colours, *edges)
    assert "--init-image does not go" in refused("红包", *colours, "--init-image", picture)
    assert "--start and --end do not go" in refused("红包", *colours, "--start", 0.5)
    ip = ("--ip-adapter", collection / "ip", "--ip-image", picture)
    assert "--ip-adapter does not go" in refused("红包", *colours, *ip)


def test_steps_with_a_t2i_adapter_are_told(
    model: Path, bridge: Path, adapters: Path, picture: Path
) -> None:
    request = GenerationRequest(
        prompt="红包", model=str(model), bridge=str(bridge), seed=1, steps=3,
        control_net=(str(adapters / "colours"),), control=(picture,),
    )  # fmt: skip
    steps: list[tuple[int, int]] = []
    list(draw_all(open_model(request), request, lambda s: steps.append((s.number, s.of))))
    assert steps == [(1, 3), (2, 3), (3, 3)]
