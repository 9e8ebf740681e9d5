"""The weights in the package, loaded as a user loads them: by stock calls without any option."""

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.plugins.embedding import load_embedding
from bridge_diffusion.plugins.lora import load_lora
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder, plugins_folder


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


def test_every_plugin_loads_with_all_its_keys_and_is_small() -> None:
    files = sorted(plugins_folder().iterdir())
    assert {"lemon", "twemoji"} <= {file.stem for file in files} <= {"ink", "lemon", "twemoji"}
    assert all(file.stat().st_size < 350_000 for file in files)
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder())
    for file in files:
        if file.stem == "lemon":
            report = load_embedding(pipe, file)
            assert (report.token, report.vectors) == ("lemon", 8)
        else:
            assert load_lora(pipe, file).unmatched == ()
