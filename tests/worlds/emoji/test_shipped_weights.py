"""The weights in the package, loaded as a user loads them: by stock calls without any option."""

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder


def test_pipeline_and_bridge_load_in_one_precision_and_draw() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder())
    pipe.set_progress_bar_config(disable=True)
    bridge = Bridge.from_pretrained(bridge_folder())
    networks = (pipe.unet, pipe.vae, pipe.text_encoder, bridge.branch, bridge.text_encoder.model)
    assert {network.dtype for network in networks} == {torch.float32}

    def draw(inputs: dict) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe(**inputs, num_inference_steps=2, output_type="pt", generator=generator).images

    plain = draw({"prompt": "panda"})
    bridge.attach(pipe)
    assert not torch.equal(draw(bridge.prompt("熊猫")), plain)
