"""All stages of the world by one call, at the size of the debug recipe."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.loop import TrainResult
from bridge_diffusion.worlds.emoji.train.recipes import DEBUG
from bridge_diffusion.worlds.emoji.train.whole import WHOLE, Control, WholeBuild, find_control

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

    english = train_control(tmp_path, "english")
    assert english.config.languages == ("en",)
    assert same_weights(english.text_encoder, bridge.text_encoder) is False
    shuffled = train_control(tmp_path, "shuffled")
    assert shuffled.config.languages == ("zh",)
    assert same_weights(shuffled.text_encoder, bridge.text_encoder) is True


def train_control(root: Path, control: Control) -> Bridge:
    done: dict[str, TrainResult] = {}
    build = WholeBuild(recipe=DEBUG, root=root, control=control)
    build.run(["text", "branch"], done.__setitem__)
    return Bridge.from_pretrained(done["branch"].export)


def same_weights(one: NativeTextEncoder, other: NativeTextEncoder) -> bool:
    return module_hash(one.model) == module_hash(other.model)


def test_mistaken_stages_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    build = WholeBuild(recipe=DEBUG, root=tmp_path / "world")
    with pytest.raises(BridgeError, match="no stage 'vae'"):
        build.run(["vae"], print)
    with pytest.raises(BridgeError, match="train the stage 'clip' before"):
        build.run(["text"], print)
    several = WholeBuild(recipe=DEBUG, root=tmp_path / "world", start=tmp_path)
    with pytest.raises(BridgeError, match="2 stages are named: clip, unet"):
        several.run(["clip", "unet"], print)
    control = WholeBuild(recipe=DEBUG, root=tmp_path / "world", control="shuffled")
    with pytest.raises(BridgeError, match="name the stages text and branch"):
        control.run(WHOLE, print)
    with pytest.raises(BridgeError, match="no control 'backwards'; there are english, shuffled"):
        find_control("backwards")
    assert not (tmp_path / "world").exists()
