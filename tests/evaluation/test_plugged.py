"""A plug-in on a pipeline for a while: it acts, and leaves nothing behind."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.plugged import plugged, plugin_hash
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, find_plugin


def draw(pipe, inputs, **options):
    generator = torch.Generator().manual_seed(0)
    options |= {"num_inference_steps": 2, "output_type": "pt", "generator": generator}
    return pipe(**inputs, **options).images


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("bridged", [False, True], ids=["alone", "bridged"])
def test_it_acts_inside_and_the_pipeline_is_exactly_the_same_afterwards(
    pipe, bridge, plugins, plugin, bridged
):
    trigger = plugin.thing.trigger if plugin.thing else "a photo"

    def picture(pipe, **options):
        if not bridged:
            return draw(pipe, {"prompt": trigger}, **options)
        bridge.attach(pipe)
        try:
            return draw(pipe, bridge.prompt("红包", english=trigger), **options)
        finally:
            bridge.detach()

    before = picture(pipe)
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with plugged(plugin, plugins, pipe, copy.deepcopy(pipe.unet)) as changed:
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        edges = {"image": [Image.new("RGB", (size, size), "white")]}
        inside = picture(changed, **(edges if plugin.kind == "controlnet" else {}))
    assert not torch.equal(inside, before)
    assert torch.equal(picture(pipe), before)
    after = pipe.unet.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def test_a_checkpoint_is_added_as_its_difference(pipe, plugins):
    plugin = find_plugin("checkpoint")
    backbone = copy.deepcopy(pipe.unet)
    folder = plugin.weights(plugins)
    checkpoint = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    with plugged(plugin, plugins, pipe, backbone):
        for name, value in pipe.unet.state_dict().items():
            torch.testing.assert_close(value, checkpoint[name])
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.mul_(3)
    with plugged(plugin, plugins, pipe, backbone):
        name = "conv_in.weight"
        wanted = 2 * backbone.state_dict()[name] + checkpoint[name]
        torch.testing.assert_close(pipe.unet.state_dict()[name], wanted)


def test_a_checkpoint_of_another_architecture_is_told(pipe, plugins):
    other = copy.deepcopy(pipe.unet)
    other.conv_in = torch.nn.Identity()
    plugin = find_plugin("checkpoint")
    with (
        pytest.raises(BridgeError, match="another architecture"),
        plugged(plugin, plugins, pipe, other),
    ):
        pass


def test_a_plug_in_that_was_not_made(pipe, tmp_path):
    plugin = find_plugin("controlnet")
    with (
        pytest.raises(BridgeError, match="bdm world plugin controlnet --out"),
        plugged(plugin, tmp_path, pipe, pipe.unet),
    ):
        pass


def test_other_weights_have_another_hash(plugins):
    hashes = {plugin_hash(plugin, plugins) for plugin in PLUGINS}
    assert len(hashes) == len(PLUGINS)
