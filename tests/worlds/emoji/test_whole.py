"""All stages of the world by one call, at the size of the debug recipe."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.loop import TrainResult
from bridge_diffusion.worlds.emoji.train.recipes import DEBUG
from bridge_diffusion.worlds.emoji.train.whole import WHOLE, WholeBuild

pytest.importorskip("skia", reason="drawing needs the extra `world`")


def test_the_whole_world_ends_in_a_bridge_that_changes_the_picture(tmp_path: Path) -> None:
    done: dict[str, TrainResult] = {}
    WholeBuild(recipe=DEBUG, root=tmp_path).run(WHOLE, done.__setitem__)

    assert tuple(done) == WHOLE
    assert all(result.finished for result in done.values())
    pipe = StableDiffusionPipeline.from_pretrained(done["unet"].export)
    pipe.set_progress_bar_config(disable=True)
    bridge = Bridge.from_pretrained(done["branch"].export)
    assert bridge.config.languages == ("zh",)
    assert bridge.config.licence == "Apache-2.0"

    def draw(inputs: dict) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "output_type": "pt", "generator": generator}
        return pipe(**inputs, **options).images

    plain = draw({"prompt": ""})
    bridge.attach(pipe)
    assert not torch.equal(draw(bridge.prompt("红包")), plain)
    assert not torch.equal(draw(bridge.prompt("红包")), draw(bridge.prompt("熊猫")))


def test_mistaken_stages_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    build = WholeBuild(recipe=DEBUG, root=tmp_path / "world")
    with pytest.raises(BridgeError, match="no stage 'vae'"):
        build.run(["vae"], print)
    with pytest.raises(BridgeError, match="train the stage 'clip' before"):
        build.run(["text"], print)
    several = WholeBuild(recipe=DEBUG, root=tmp_path / "world", start=tmp_path)
    with pytest.raises(BridgeError, match="2 stages are named: clip, unet"):
        several.run(["clip", "unet"], print)
    assert not (tmp_path / "world").exists()
