"""LoRAs of every layout do what the network that they were taken from does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from bridge_diffusion import Bridge
from bridge_diffusion.plugins.lora import load_lora, set_lora_weights

from .conftest import (
    TEXT_TARGETS,
    UNET_TARGETS,
    add_lora,
    draw,
    frozen,
    same,
    saved,
)

Pipe = Any


def test_kohya(kohya_file: Path, taught: tuple, new_pipe: Callable[[], Pipe]) -> None:
    unet, text, pipe = taught
    other = new_pipe()
    plain = draw(other)
    report = load_lora(other, kohya_file)
    assert np.array_equal(draw(other), draw(pipe))
    assert not np.array_equal(draw(other), plain)
    assert {part: r.matched for part, r in report.parts.items()} == {
        "unet": len(unet),
        "text_encoder": len(text),
    }
    assert report.unmatched == ()
    assert report.identity.details["layout"] == "kohya"
    assert report.identity.details["method"] == "LoCon"
    assert report.identity.details["rank"] == "2 to 4"


def test_kohya_scales_each_layer_by_its_alpha(
    kohya_file: Path, taught: tuple, new_pipe: Callable[[], Pipe]
) -> None:
    """Halved for some layers of each network, as trainers do it for convolutions."""
    _, _, pipe = taught
    state = load_file(kohya_file)
    for key in state:
        if "conv1.alpha" in key or "fc1.alpha" in key:
            state[key] = state[key] / 2
    save_file(state, kohya_file)
    for network, layer in ((pipe.unet, "conv1"), (pipe.text_encoder, "fc1")):
        for name, module in network.named_modules():
            if name.endswith(layer):
                module.scaling["made"] = 0.5
    other = new_pipe()
    load_lora(other, kohya_file)
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def test_diffusers(taught: tuple, new_pipe: Callable[[], Pipe], tmp_path: Path) -> None:
    unet, text, pipe = taught
    other = new_pipe()
    report = load_lora(other, saved(tmp_path, unet, text))
    assert np.array_equal(draw(other), draw(pipe))
    assert report.identity.details["layout"] == "diffusers"
    assert str(report) == f"unet {len(unet)} of {len(unet)} keys, text_encoder 8 of 8 keys"


def test_diffusers_with_peft_s_settings_in_the_file(
    pipe: Pipe, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    """An alpha that is not the rank stands in the file's notes alone, by layer too."""
    unet = add_lora(
        pipe.unet, r=4, lora_alpha=2, target_modules=UNET_TARGETS, alpha_pattern={"conv1": 8},
        use_rslora=True,
    )  # fmt: skip
    notes = {"unet_lora_adapter_metadata": pipe.unet.peft_config["made"].to_dict()}
    other = new_pipe()
    load_lora(other, saved(tmp_path, unet, **notes))
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def test_diffusers_old_names(taught: tuple, new_pipe: Callable[[], Pipe], tmp_path: Path) -> None:
    _, text, _ = taught
    unet = add_lora(new_pipe().unet, r=4, lora_alpha=4, target_modules=["to_q", "to_k"])
    names = {"to_q.lora_A": "processor.to_q_lora.down", "to_q.lora_B": "processor.to_q_lora.up"}
    names |= {"to_k.lora_A": "processor.to_k_lora.down", "to_k.lora_B": "processor.to_k_lora.up"}
    names |= {"lora_A": "lora_linear_layer.down", "lora_B": "lora_linear_layer.up"}

    def old(key: str) -> str:
        for new, name in names.items():
            if new in key:
                return key.replace(new, name)
        return key

    state = {f"unet.{old(k)}": v for k, v in unet.items()}
    state |= {f"text_encoder.text_model.{old(k)}": v for k, v in text.items()}
    save_file(state, tmp_path / "old.safetensors")
    report = load_lora(new_pipe(), tmp_path / "old.safetensors")
    assert (report.matched, report.unmatched) == (len(unet) + len(text), ())
    assert report.identity.details["layout"] == "diffusers (old)"


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_peft_folder(pipe: Pipe, new_pipe: Callable[[], Pipe], tmp_path: Path, part: str) -> None:
    targets = {"unet": UNET_TARGETS, "text_encoder": TEXT_TARGETS}[part]
    config = LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    model = get_peft_model(getattr(pipe, part), config)
    model.save_pretrained(tmp_path / "adapter")
    other = new_pipe()
    report = load_lora(other, tmp_path / "adapter")
    assert set(report.parts) == {part}
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def test_alphas_in_diffusers_names(
    taught: tuple, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    """Some trainers write kohya's alphas beside diffusers' names; one without a layer is told."""
    unet, _, _ = taught
    halved = {k: v / 2 if ".lora_A." in k else v for k, v in unet.items()}
    one, other = new_pipe(), new_pipe()
    load_lora(one, saved(tmp_path / "halved", halved))
    path = saved(tmp_path / "alphas", unet)
    state = load_file(path)
    layers = {key.partition(".lora_")[0] for key in state}
    state |= {f"{layer}.alpha": torch.tensor(2.0) for layer in layers}
    state["unet.nowhere.alpha"] = torch.tensor(2.0)
    save_file(state, path)
    report = load_lora(other, path)
    assert report.unmatched == ("unet.nowhere.alpha",)
    assert np.array_equal(draw(other), draw(one))


def test_any_name_is_one_of_its_own(kohya_file: Path, new_pipe: Callable[[], Pipe]) -> None:
    """Also those of a torch module's own attributes, and those that differ in a sign alone."""
    pipe = new_pipe()
    names = ("half", "a b", "a_b", "lora_A")
    for name in names:
        load_lora(pipe, kohya_file, name)
    set_lora_weights(pipe, dict.fromkeys(names, 0.0) | {"a_b": 1.0})
    other = new_pipe()
    load_lora(other, kohya_file)
    assert np.array_equal(draw(pipe), draw(other))


def test_dora(pipe: Pipe, new_pipe: Callable[[], Pipe], tmp_path: Path) -> None:
    unet = add_lora(pipe.unet, r=4, lora_alpha=4, target_modules=["to_q", "to_k"], use_dora=True)
    other = new_pipe()
    report = load_lora(other, saved(tmp_path, unet))
    assert report.identity.details["method"] == "DoRA"
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def test_a_pickle_of_tensors(
    kohya_file: Path, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    one, other = new_pipe(), new_pipe()
    torch.save(load_file(kohya_file), tmp_path / "style.pt")
    load_lora(one, kohya_file)
    load_lora(other, tmp_path / "style.pt")
    assert np.array_equal(draw(one), draw(other))


def test_sdxl(xl_pipe: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    """Both text encoders, in kohya's layout."""
    plain = draw(xl_pipe)
    named = {}
    for part in ("text_encoder", "text_encoder_2"):
        network = getattr(xl_pipe, part)
        tensors = add_lora(network, r=2, lora_alpha=2, target_modules=TEXT_TARGETS)
        prefix = "" if hasattr(network, "text_model") else "text_model."
        named |= {f"{part}.{prefix}{k}": v for k, v in tensors.items()}
    unet = add_lora(xl_pipe.unet, r=4, lora_alpha=4, target_modules=UNET_TARGETS)
    named |= {f"unet.{k}": v for k, v in unet.items()}
    save_file(convert_state_dict_to_kohya(named), tmp_path / "xl.safetensors")
    wanted = draw(xl_pipe)
    xl_pipe.delete_adapters("made")
    assert np.array_equal(draw(xl_pipe), plain)
    report = load_lora(xl_pipe, tmp_path / "xl.safetensors")
    assert set(report.parts) == {"unet", "text_encoder", "text_encoder_2"}
    assert report.unmatched == ()
    assert report.identity.family == "sdxl"
    np.testing.assert_allclose(draw(xl_pipe), wanted, atol=1e-6)


def test_several_each_with_its_weight(
    kohya_file: Path, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    pipe = new_pipe()
    targets = ["to_q", "to_v"]  # one has the other LoRA, one has none
    unet = add_lora(new_pipe().unet, seed=9, r=2, lora_alpha=2, target_modules=targets)
    load_lora(pipe, kohya_file)
    alone = draw(pipe)
    assert load_lora(pipe, saved(tmp_path, unet), "other.one").unmatched == ()
    set_lora_weights(pipe, {"style": 1.0, "other.one": 0.0})
    assert np.array_equal(draw(pipe), alone)
    set_lora_weights(pipe, {"style": 0.5, "other.one": 0.25})
    both = draw(pipe)
    fused = new_pipe()
    load_lora(fused, kohya_file)
    set_lora_weights(fused, {"style": 0.5})
    fused.fuse_lora()
    fused.unload_lora_weights()
    load_lora(fused, tmp_path / "pytorch_lora_weights.safetensors")
    set_lora_weights(fused, {"pytorch_lora_weights": 0.25})
    np.testing.assert_allclose(both, draw(fused), atol=1e-5)


# With a bridge


@pytest.mark.parametrize("attached_first", [True, False])
def test_a_bridge_may_come_before_or_after(
    kohya_file: Path,
    taught: tuple,
    new_pipe: Callable[[], Pipe],
    new_release_bridge: Callable[[], Bridge],
    attached_first: bool,
) -> None:
    """The branch stays as it is; UNet and English prompt feel the LoRA, the native one does not."""
    _, _, pipe = taught
    wanted_bridge = new_release_bridge().attach(pipe)
    wanted = draw(pipe, **wanted_bridge.prompt("狐狸", english="fox"))
    other, bridge = new_pipe(), new_release_bridge()
    branch, text = frozen(bridge.branch), frozen(bridge.text_encoder.model)
    if attached_first:
        bridge.attach(other)
        load_lora(other, kohya_file)
    else:
        load_lora(other, kohya_file)
        bridge.attach(other)
    prompt = bridge.prompt("狐狸", english="fox")
    assert np.array_equal(draw(other, **prompt), wanted)
    assert same(frozen(bridge.branch), branch)
    assert same(frozen(bridge.text_encoder.model), text)
    english_row = slice(0, other.tokenizer.model_max_length)
    with_lora = prompt["prompt_embeds"][:, english_row]
    set_lora_weights(other, {"style": 0.0})
    assert not torch.equal(
        bridge.prompt("狐狸", english="fox")["prompt_embeds"][:, english_row], with_lora
    )
