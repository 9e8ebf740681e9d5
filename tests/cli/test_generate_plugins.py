"""`bdm generate` with what the English community makes, from the command line to the pixels."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_kohya
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_plugins import trained
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from bridge_diffusion.generation.drawing import draw as draw_all
from bridge_diffusion.generation.loading import open_model
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.images.infotext import parse_infotext
from bridge_diffusion.images.metadata import read_metadata

from .conftest import again, pixels


def test_loras_act_each_with_its_weight(draw: Callable, bdm: Callable, collection: Path) -> None:
    style = collection / "style.safetensors"
    plain, zero, half, whole = (
        pixels(draw("红包", *words)).tobytes()
        for words in ([], ["--lora", f"{style}:0"], ["--lora", f"{style}:.5"], ["--lora", style])
    )
    assert plain == zero
    assert len({plain, half, whole}) == 3
    path = again(bdm, draw("红包", "--lora", f"{style}:0.5"))
    info = parse_infotext(read_metadata(path).infotext)
    assert info.prompt == "<lora:style:0.5>"
    name, _, digits = info.parameters["Lora hashes"].partition(": ")
    assert (name, len(digits)) == ("style", 12)
    assert read_metadata(path).record["request"]["lora"] == [f"{style}:0.5"]


def test_a_lora_of_the_text_encoder_acts_on_the_english_prompt(
    draw: Callable, collection: Path
) -> None:
    lora = ("--lora", "words.v2:0.7", "--plugins", collection)
    fox = ("红包", "--english", "a fox")
    assert not np.array_equal(pixels(draw(*fox)), pixels(draw(*fox, *lora)))


def test_tags_do_what_the_option_does(draw: Callable, bdm: Callable, collection: Path) -> None:
    """In either prompt; they are no part of what is encoded, nor of the file's name."""
    fox = ("--english", "a fox")
    folder = ("--plugins", collection)
    option = draw("红包", *fox, "--lora", "style:0.8", "--lora", "words.v2", *folder)
    tags = draw("红包", "--english", "a fox <lora:style:0.8><lora:words.v2>", *folder)
    native = draw("红包 <lora:style:0.8>", *fox, "--lora", "words.v2", *folder)
    for path in (tags, native):
        np.testing.assert_array_equal(pixels(path), pixels(option))
        assert path.name.endswith("-红包.png")
        again(bdm, path)
    info = parse_infotext(read_metadata(tags).infotext)
    assert info.prompt == "a fox <lora:style:0.8> <lora:words.v2:1>"
    assert parse_infotext(read_metadata(native).infotext).parameters["Native prompt"] == "红包"


def test_without_a_bridge(draw: Callable, bdm: Callable, collection: Path) -> None:
    folder = ("--plugins", collection)
    path = again(bdm, draw("a fox <lora:style:0.8>", *folder, bridge="none"))
    option = draw("a fox", "--lora", "style:0.8", *folder, bridge="none")
    np.testing.assert_array_equal(pixels(path), pixels(option))


def test_lcm(draw: Callable, bdm: Callable, collection: Path) -> None:
    """An LCM-LoRA is an ordinary LoRA with a sampler and guidance of its own."""
    lcm = ("--scheduler", "lcm", "--guidance", 1, "--lora", collection / "style.safetensors")
    again(bdm, draw("红包", *lcm))


def test_an_embedding_is_a_word_of_the_english_prompt(
    draw: Callable, bdm: Callable, collection: Path
) -> None:
    given = ("--embedding", "mood", "--plugins", collection)
    fox, mood = ("红包", "--english", "a fox"), ("红包", "--english", "a fox, mood")
    path = again(bdm, draw(*mood, *given))
    assert not np.array_equal(pixels(path), pixels(draw(*mood)))
    np.testing.assert_array_equal(pixels(draw(*fox, *given)), pixels(draw(*fox)))
    assert parse_infotext(read_metadata(path).infotext).parameters["TI hashes"].startswith("mood: ")


def test_an_embedding_that_no_prompt_names_is_told(
    bdm: Callable, model: Path, bridge: Path, collection: Path, tmp_path: Path
) -> None:
    arguments = ("--model", model, "--bridge", bridge, "--steps", 1, "--out", tmp_path)
    outcome = bdm("generate", "红包", *arguments, "--embedding", collection / "mood.safetensors")
    assert outcome.code == 0
    assert outcome.err.startswith("bdm: warning: the embedding 'mood' is in no English prompt")


def test_a_controlnet(
    draw: Callable, bdm: Callable, collection: Path, picture: Path, mask: Path
) -> None:
    """From text, from a picture, and inside a mask."""
    net = ("--control-net", "edges", "--plugins", collection, "--control", picture)
    for words in ([], ["--init-image", picture], ["--init-image", picture, "--mask", mask]):
        path = again(bdm, draw("红包", *net, *words))
        nothing = draw("红包", *net, *words, "--control-scale", 0)
        np.testing.assert_array_equal(pixels(nothing), pixels(draw("红包", *words)))
        assert not np.array_equal(pixels(path), pixels(nothing))
        info = parse_infotext(read_metadata(path).infotext)
        assert info.parameters["ControlNet 0"].startswith("Module: none, Model: edges [")


def test_another_autoencoder(draw: Callable, bdm: Callable, collection: Path) -> None:
    path = again(bdm, draw("红包", "--vae", collection / "bright"))
    assert pixels(path).mean() > pixels(draw("红包")).mean() + 5
    assert parse_infotext(read_metadata(path).infotext).parameters["VAE"] == "bright"


def test_an_ip_adapter(draw: Callable, bdm: Callable, collection: Path, picture: Path) -> None:
    given = ("--ip-adapter", collection / "ip", "--ip-image", picture)
    path = again(bdm, draw("红包", *given))
    plain = pixels(draw("红包"))
    assert not np.array_equal(pixels(path), plain)
    np.testing.assert_allclose(pixels(draw("红包", *given, "--ip-scale", 0)), plain, atol=1)
    assert "ip-adapter [" in parse_infotext(read_metadata(path).infotext).parameters["IP-Adapter"]


def test_all_at_once(
    draw: Callable, bdm: Callable, collection: Path, picture: Path, mask: Path
) -> None:
    path = draw(
        "红包", "--english", "a fox, mood <lora:style:0.5>", "--plugins", collection,
        "--lora", "words.v2:0.5", "--embedding", "mood", "--vae", "bright", "--start", 0.4,
        "--control-net", "edges", "--control", picture, "--init-image", picture, "--mask", mask,
        "--ip-adapter", collection / "ip", "--ip-image", picture, "--steps", 4,
    )  # fmt: skip
    again(bdm, path)
    shown = bdm("info", path).out
    for words in ("<lora:words.v2:0.5> <lora:style:0.5>", "TI hashes", "VAE: bright", "edges ["):
        assert words in shown


def test_a_changed_plugin_does_not_draw_a_file_again(
    draw: Callable,
    bdm: Callable,
    refused: Callable,
    collection: Path,
    tmp_path: Path,
    picture: Path,
) -> None:
    own = shutil.copytree(collection, tmp_path / "own")
    path = draw(
        "红包", "--lora", "style", "--embedding", "mood", "--english", "mood", "--vae", "bright",
        "--control-net", "edges", "--control", picture, "--plugins", own,
        "--ip-adapter", own / "ip", "--ip-image", picture,
    )  # fmt: skip
    for name, flag in (
        ("style.safetensors", "--lora style"),
        ("mood.safetensors", "--embedding mood"),
        ("bright/diffusion_pytorch_model.safetensors", "--vae bright"),
        ("edges/diffusion_pytorch_model.safetensors", "--control-net edges"),
        ("ip/ip-adapter.safetensors", "--ip-adapter ip-adapter"),
        ("ip/image_encoder/model.safetensors", "--ip-adapter ip-adapter"),
    ):
        kept = (own / name).read_bytes()
        state = load_file(own / name)
        save_file({key: tensor * 1.5 for key, tensor in state.items()}, own / name)
        assert f"was drawn with {flag} of hash" in refused("--from", path)
        (own / name).write_bytes(kept)
    kept = picture.read_bytes()
    Image.new("RGB", (16, 16), "red").save(picture)
    assert "--control" in refused("--from", path)
    picture.write_bytes(kept)
    again(bdm, path)
    (own / "style.safetensors").unlink()
    assert "no file in" in refused("--from", path)


def test_options_over_a_file_change_its_plugins(
    draw: Callable, bdm: Callable, collection: Path
) -> None:
    path = draw("红包 <lora:style>", "--plugins", collection)
    other = draw("月饼", "--lora", "words.v2:0.5", "--english", "fox", "--plugins", collection)
    outcome = bdm("generate", "--from", path, "--lora", "words.v2:0.5", "--english", "fox",
                  "--out", path.parent, "月饼")  # fmt: skip
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(pixels(outcome.lines[0]), pixels(other))
    more = ("--english", "fox <lora:words.v2:0.5>")  # a LoRA that the file has no hash of
    outcome = bdm("generate", "--from", path, "--out", path.parent, "月饼", *more)
    assert outcome.code == 0, outcome.err


def test_shipped_plugins_are_found_by_name(
    bdm: Callable, tmp_path: Path, refused: Callable, collection: Path
) -> None:
    """With the emoji world, whose they are; and drawn again from the picture."""
    outcome = bdm(
        "generate", "狗", "--english", "a dog <lora:comic:0.8>", "--steps", 1, "--seed", 1,
        "--out", tmp_path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    path = again(bdm, Path(outcome.lines[0]))
    info = parse_infotext(read_metadata(path).infotext)
    assert info.prompt == "a dog <lora:comic:0.8>"
    for folder in ((), ("--plugins", collection)):
        assert "--lora comic" in refused("狗", "--lora", "comic", *folder)


def test_mistakes(
    refused: Callable, collection: Path, model: Path, bridge: Path, picture: Path, tmp_path: Path
) -> None:
    folder = ("--plugins", collection)
    style = collection / "style.safetensors"
    unet = model / "unet" / "diffusion_pytorch_model.safetensors"
    for arguments, words in (
        (("--lora", "style"), "--plugins"),
        (("--lora", "stlye", *folder), "near it: style"),
        (("--lora", f"{style}:1e9"), "--lora"),
        (("--lora", style, "--lora", style), "named twice"),
        (("--lora", style, "--english", "<lora:style>", *folder), "named twice"),
        (("--english", "<lora:style>"), "--plugins"),
        (("--english", f"<lora:{style}>", *folder), "no file in"),  # a tag is never a path
        (("--negative-english", "<lora:style>", *folder), "--negative-english"),
        (("--lora", unet), "is a UNet, not a LoRA"),
        (("--lora", "mood", *folder), "give it with --embedding"),
        (("--lora", bridge), "give it with --bridge"),
        (("--embedding", style), "give it with --lora"),
        (("--control-net", "edges", *folder), "--control-net needs --control"),
        (("--control", picture), "--control needs --control-net"),
        (("--control-scale", 0.5), "--control-scale needs --control-net"),
        (("--control-net", "bright", *folder, "--control", picture), "give it with --vae"),
        (("--control-net", "edges", *folder, "--control", tmp_path / "no.png"), "no picture at"),
        (("--vae", "edges", *folder), "give it with --control-net"),
        (("--vae", tmp_path / "none"), "--plugins"),
        (("--ip-adapter", collection / "ip"), "--ip-adapter needs --ip-image"),
        (("--ip-adapter", style, "--ip-image", picture), "not an IP-Adapter"),
    ):
        assert words in refused("红包", *arguments), arguments
    assert "prompt is empty" in refused("<lora:style>", *folder)


def test_parts_may_come_and_go(model: Path, bridge: Path, collection: Path, picture: Path) -> None:
    """As with --offload, whose place is here the CPU: the same picture, twice."""
    request = GenerationRequest(
        prompt="红包", english="fox mood", model=str(model), bridge=str(bridge), seed=1, steps=2,
        lora=("style", "words.v2"), embedding=("mood",), plugins=collection, init_image=picture,
        control_net=("edges",), control=(picture,),
        ip_adapter=str(collection / "ip"), ip_image=picture,
    )  # fmt: skip
    (wanted,) = draw_all(open_model(request), request)
    opened = open_model(request)
    opened.pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        (drawing,) = draw_all(opened, request)
        np.testing.assert_array_equal(np.asarray(drawing.image), np.asarray(wanted.image))


@pytest.fixture
def xl_model(model: Path, tmp_path: Path) -> Path:
    """A tiny SDXL pipeline folder, with the tiny model's tokenizer and autoencoder."""
    small = StableDiffusionPipeline.from_pretrained(model)
    config = {**small.text_encoder.config.to_dict(), "projection_dim": 16}
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**config)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        unet=unet,
        scheduler=small.scheduler,
    ).save_pretrained(tmp_path / "xl")
    return tmp_path / "xl"


def test_sdxl(
    bdm: Callable, xl_model: Path, collection: Path, tmp_path: Path, picture: Path, mask: Path
) -> None:
    """Its LoRAs, pairs of embeddings and ControlNets, without a bridge, from text and in a mask."""
    folder = tmp_path / "plugins"
    unet = UNet2DConditionModel.from_pretrained(xl_model / "unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16)).save_pretrained(
        folder / "edges"
    )
    state = {f"unet.{k}": v for k, v in trained(unet, ["to_q"], 1).items()}
    text = CLIPTextModelWithProjection.from_pretrained(xl_model / "text_encoder_2")
    prefix = "" if hasattr(text, "text_model") else "text_model."
    words = trained(text, ["q_proj"], 2)
    state |= {f"text_encoder_2.{prefix}{k}": v for k, v in words.items()}
    save_file(convert_state_dict_to_kohya(state), folder / "style.safetensors")
    pair = {name: torch.randn(2, 32) for name in ("clip_l", "clip_g")}
    save_file(pair, folder / "mood.safetensors")
    drawn = []
    for prompt, *given in (
        ["a fox mood"],
        ["a fox mood", "--embedding", "mood"],
        ["a fox mood <lora:style:0.3>", "--embedding", "mood"],
        ["a fox", "--control-net", "edges", "--control", picture, "--init-image", picture,
         "--mask", mask],
    ):  # fmt: skip
        outcome = bdm(
            "generate", prompt, "--model", xl_model, "--bridge", "none", "--plugins", folder,
            "--steps", 2, "--seed", 1, "--out", tmp_path / "out", *given,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        drawn.append(pixels(again(bdm, Path(outcome.lines[0]))).tobytes())
    assert len(set(drawn)) == 4
    outcome = bdm(
        "generate", "x", "--model", xl_model, "--bridge", "none", "--plugins", collection,
        "--embedding", "mood",
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (2, "")
    assert "SDXL, which has two text encoders" in outcome.err
