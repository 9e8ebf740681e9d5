"""`bdm convert`: the same bridge in the other layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matrix.networks import make_branch, write_native_models
from PIL import Image
from safetensors.torch import load_file

from bridge_diffusion.models import write_published

BRANCH = "branch/diffusion_pytorch_model.safetensors"
PUBLISHED = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def release(tmp_path: Path, reference_weights: Path) -> Path:
    """A whole folder as the paper's release lays it out, of the reference cases' tiny weights."""
    folder = shutil.copytree(reference_weights, tmp_path / "release")
    for file in (folder / "native_tokenizer").iterdir():
        shutil.copy(file, folder / "native_text_encoder")
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "controlnet": ["diffusers", "ControlNetModelBDM"],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index = {"_class_name": "StableDiffusionControlNetPipelineBDM", **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_there_and_back(bdm: Callable, release: Path, tmp_path: Path) -> None:
    ours, back = tmp_path / "ours", tmp_path / "new/back"
    text_encoder = release / "native_text_encoder"
    outcome = bdm("convert", release, ours, "--text-encoder", text_encoder)
    assert (outcome.code, outcome.lines) == (0, [str(ours)]), outcome.err
    outcome = bdm("convert", ours, back, "--to", "published")
    assert (outcome.code, outcome.err) == (0, "")
    before, after = load_file(release / "controlnet" / PUBLISHED), load_file(back / PUBLISHED)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    config = json.loads((release / "controlnet/config.json").read_text())
    written = json.loads((back / "config.json").read_text())
    assert {k: v for k, v in config.items() if k != "_diffusers_version"}.items() <= written.items()
    assert "bridge in the published layout" in bdm("info", back).out


def test_a_release_folder_draws_as_it_is(bdm: Callable, release: Path, tmp_path: Path) -> None:
    """Its model, its branch and its text encoder; the scheduler as the release had it."""
    ours = tmp_path / "ours"
    text_encoder = ("--text-encoder", release / "native_text_encoder")
    bdm("convert", release, ours, *text_encoder)
    hashes = []
    for bridge in ((release, *text_encoder), (release / "controlnet", *text_encoder), (ours,)):
        path = tmp_path / "x.png"
        options = ("--model", release, "--bridge", *bridge, "--seed", 1, "--steps", 2)
        outcome = bdm("generate", "红包", *options, "--out", path)
        assert outcome.code == 0, outcome.err
        with Image.open(path) as image:
            hashes.append(np.asarray(image).tobytes())
    assert len(set(hashes)) == 1


def test_what_the_published_layout_cannot_say(bdm: Callable, bridge: Path, tmp_path: Path) -> None:
    outcome = bdm("convert", bridge, tmp_path / "published", "--to", "published")
    assert outcome.code == 0
    assert "another encoding of text" in outcome.err


def test_half_precision(bdm: Callable, bridge: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    assert bdm("convert", bridge, half, "--dtype", "fp16").code == 0
    assert {v.dtype for v in load_file(half / BRANCH).values()} == {torch.float16}


def test_a_converted_bridge_draws_the_same(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    bdm("convert", bridge, copy)
    pictures = []
    for folder in (bridge, copy):
        path = tmp_path / f"{folder.name}.png"
        options = ("--model", model, "--bridge", folder, "--seed", 1, "--steps", 2, "--out", path)
        assert bdm("generate", "红包", *options).code == 0
        with Image.open(path) as image:
            pictures.append(np.asarray(image))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("to", ["bridge", "published"])
def test_mistakes_leave_nothing(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path, to: str
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    for source, target, words in (
        (bridge, taken, "is there already"),
        (tmp_path / "none", tmp_path / "new", "not a folder"),
        (model, tmp_path / "new", "bridge"),
    ):
        outcome = bdm("convert", source, target, "--to", to)
        assert outcome.code == 2
        assert words in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
    assert [path.name for path in taken.iterdir()] == ["mine"]


def test_a_published_branch_needs_its_text_encoder(
    bdm: Callable, bridge: Path, tmp_path: Path
) -> None:
    bdm("convert", bridge, tmp_path / "published", "--to", "published")
    outcome = bdm("convert", tmp_path / "published", tmp_path / "new")
    assert outcome.code == 2
    assert "text_encoder" in outcome.err
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "published" / PUBLISHED).is_file()


def test_sdxls_two_text_encoders_in_their_order(bdm: Callable, tmp_path: Path) -> None:
    first, second = write_native_models("sdxl", tmp_path)
    write_published(make_branch("sdxl"), tmp_path / "published")
    encoders = ("--text-encoder", first, "--text-encoder", second)
    outcome = bdm("convert", tmp_path / "published", tmp_path / "ours", *encoders)
    assert outcome.code == 0, outcome.err
    encoding = json.loads((tmp_path / "ours/bridge.json").read_text())["text_encoding"]
    assert (encoding["models"], encoding["pooled"]) == (2, True)
    outcome = bdm("convert", tmp_path / "published", tmp_path / "one", "--text-encoder", first)
    assert outcome.code == 2
    assert "width 80" in outcome.err
