"""The weights in the package, loaded as a user loads them: by stock calls without any option."""

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.models.convert import WEIGHT_FILES
from bridge_diffusion.plugins.embedding import load_embedding
from bridge_diffusion.plugins.lora import load_lora
from bridge_diffusion.worlds.emoji.captions import caption
from bridge_diffusion.worlds.emoji.concepts import find_concept
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
    assert {"lemon", "comic"} <= {file.stem for file in files} <= {"ink", "lemon", "comic"}
    assert all(file.stat().st_size < 300_000 for file in files)
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder())
    for file in files:
        if file.stem == "lemon":
            report = load_embedding(pipe, file)
            assert (report.token, report.vectors) == ("lemon", 8)
        else:
            assert load_lora(pipe, file).unmatched == ()


def test_the_arabic_bridge_has_the_chinese_branch_and_reads_alike() -> None:
    """Residuals of the same thing said in both languages are nearer than of another thing."""
    zh, ar = (Bridge.from_pretrained(bridge_folder(language)) for language in ("zh", "ar"))
    assert not (bridge_folder("ar") / "branch" / WEIGHT_FILES[0]).exists()
    sample = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def added(bridge: Bridge, text: str) -> torch.Tensor:
        native = bridge.text_encoder.encode([text])
        return bridge.branch(sample, 800, native.hidden, native.mask)[1].flatten()

    colours = ("blue", "red", "pink")
    said = {
        language: [
            added(bridge, caption(language, "single", (find_concept(name).names[language],), (c,)))
            for name, c in zip(("dog", "red envelope", "envelope"), colours, strict=True)
        ]
        for language, bridge in (("zh", zh), ("ar", ar))
    }
    for index, chinese in enumerate(said["zh"]):
        distances = [(chinese - arabic).norm().item() for arabic in said["ar"]]
        assert min(range(3), key=distances.__getitem__) == index
        assert 2 * distances[index] < sorted(distances)[1]
