"""A model's safety checker stays at work unless it is left out on purpose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil


@pytest.fixture
def checked_model(model: Path, tmp_path: Path) -> Path:
    """The tiny pipeline with a checker that finds fault with everything."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(-2.0)  # thresholds below any cosine
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.register_modules(
        safety_checker=checker,
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
    )
    pipe.save_pretrained(tmp_path / "checked")
    return tmp_path / "checked"


def test_it_is_off_only_by_choice(bdm: Callable, checked_model: Path, tmp_path: Path) -> None:
    options = ("a fox", "--model", checked_model, "--bridge", "none", "--steps", 1, "--json")
    for choice, black in (((), True), (("--no-safety-checker",), False)):
        path = tmp_path / "x.png"
        outcome = bdm("generate", *options, "--out", path, *choice)
        assert outcome.code == 0
        with Image.open(path) as image:
            assert (np.asarray(image).max() == 0) == black
        assert outcome.json()["blacked_out"] == black
        assert ("--no-safety-checker" in outcome.err) == black
