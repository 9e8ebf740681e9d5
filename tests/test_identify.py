import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import identify, read_header


def save(path: Path, *keys: str, width: int = 768) -> Path:
    save_file(
        {key: np.zeros((2, width), np.float16) for key in keys}, path, {"modelspec.title": "t"}
    )
    return path


@pytest.mark.parametrize(
    ("key", "kind", "family"),
    [
        (
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
            "Stable Diffusion checkpoint",
            "sd15",
        ),
        ("lora_unet_down_blocks_0_attentions_0_to_k.lora_down.weight", "LoRA", None),
        ("unet.down_blocks.0.attentions.0.attn2.to_k.lora_A.weight", "LoRA", "sd15"),
        ("lora_unet_down_blocks_0_attentions_0_to_k.hada_w1_a", "LoRA", None),
        ("transformer.single_transformer_blocks.0.x.lora_A.weight", "LoRA", "transformer"),
        ("lora_controlnet", "Control-LoRA", None),
        ("lllite_unet_input_blocks_4_1_x.down.0.weight", "ControlNet-LLLite", None),
        ("ip_adapter.1.to_k_ip.weight", "IP-Adapter", "sd15"),
        ("adapter.body.0.resnets.0.block1.weight", "T2I-Adapter", None),
        ("controlnet_cond_embedding.conv_in.weight", "ControlNet", None),
        ("controlnet_down_blocks.0.weight", "bridge branch", None),
        ("emb_params", "textual inversion", "sd15"),
        ("clip_g", "textual inversion", "sdxl"),
        ("<cat-toy>", "textual inversion", "sd15"),
        ("text_model.embeddings.token_embedding.weight", "text encoder", None),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "UNet", "sd15"),
        ("first_stage_model.decoder.conv_in.weight", "VAE", None),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "VAE", None),
        ("something.weight", "safetensors", None),
    ],
)
def test_safetensors_by_their_keys(tmp_path: Path, key: str, kind: str, family: str | None) -> None:
    keys = [key, "down_blocks.0.resnets.0.x"] if kind == "UNet" else [key]
    keys += ["encoder.down_blocks.0.resnets.0.x"] if key.startswith("decoder.") else []
    identity = identify(save(tmp_path / "x.safetensors", *keys))
    assert (identity.kind, identity.family) == (kind, family)
    assert identity.details["metadata"] == {"modelspec.title": "t"}
    assert identity.details["parameters"] == 2 * 768 * len(keys)


def test_what_a_lora_says(tmp_path: Path) -> None:
    """Layout, method, ranks, networks, family and words, from header and notes alone."""
    path = tmp_path / "x.safetensors"
    state = {
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": np.zeros((4, 8, 3, 3)),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": np.zeros((8, 4, 1, 1)),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.zeros((16, 8)),
    }
    tags = {"folder": {"snow": 2, "a fox": 30}, "other": {"snow": 5}}
    save_file(state, path, {"ss_tag_frequency": json.dumps(tags)})
    details = identify(path).details
    assert (details["layout"], details["method"], details["rank"]) == ("kohya", "LoCon", "4 to 16")
    assert details["changes"] == ["unet", "text_encoder_2"]
    assert details["trigger_words"] == ["a fox", "snow"]
    assert identify(path).family == "sdxl"
    notes = {"modelspec.trigger_phrase": "snw, winter", "ss_tag_frequency": json.dumps(tags)}
    state = {key: tensor for key, tensor in state.items() if "unet" in key}
    save_file(state, path, notes | {"ss_base_model_version": "sd_v1"})
    assert identify(path).details["trigger_words"] == ["snw", "winter"]
    assert identify(path).family == "sd15"


@pytest.mark.parametrize("notes", ["{", "[]", '{"a": 1}', '{"a": {"b": "x"}}', "[" * 10_000])
def test_senseless_notes_are_passed_over(tmp_path: Path, notes: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_x.lora_up.weight": np.zeros((2, 2))}, path, {"ss_tag_frequency": notes})
    assert "trigger_words" not in identify(path).details


def test_folders_of_networks(tmp_path: Path) -> None:
    config = {"_class_name": "ControlNetModel", "cross_attention_dim": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (identify(tmp_path).kind, identify(tmp_path).family) == ("ControlNet", "sdxl")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    assert identify(tmp_path).kind == "VAE"
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert identify(tmp_path).kind == "model"


def test_families_by_the_width_of_their_text(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    names = [
        identify(save(tmp_path / "x.safetensors", key, width=width)).family
        for width in (768, 1024, 2048, 640)
    ]
    assert names == ["sd15", "sd2", "sdxl", None]


def test_folders(tmp_path: Path) -> None:
    assert identify(tmp_path).kind == "folder of unknown content"
    config = {"_class_name": "ControlNetModelBDM", "is_xl": True, "cross_attention_dim": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    published = identify(tmp_path)
    assert (published.kind, published.family) == ("bridge in the published layout", "sdxl")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert (identify(tmp_path).kind, identify(tmp_path).family) == ("pipeline", "sdxl")
    (tmp_path / "bridge.json").write_text('{"family": "sd15", "format_version": 1}')
    assert (identify(tmp_path).kind, identify(tmp_path).family) == ("bridge", "sd15")
    for damaged in (b"[]", b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "bridge.json").write_bytes(damaged)
        with pytest.raises(BridgeError, match=r"bridge\.json"):
            identify(tmp_path)


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_is_named_and_never_opened(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "bare.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    torch.save({"x": Trap(sprung)}, tmp_path / "zip.safetensors")
    torch.save({"x": Trap(sprung)}, tmp_path / "model.ckpt")
    for name in ("bare", "zip"):
        with pytest.raises(BridgeError, match="is a pickle"):
            identify(tmp_path / f"{name}.safetensors")
    assert identify(tmp_path / "model.ckpt").kind == "PyTorch pickle"
    assert not sprung.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), cut=st.integers(min_value=1, max_value=2000))
def test_damaged_safetensors_are_a_clear_error(tmp_path: Path, data: bytes, cut: int) -> None:
    path = save(tmp_path / "x.safetensors", "a", "b", width=64)
    whole = path.read_bytes()
    for content in (data, whole[: -min(cut, len(whole))], (10**12).to_bytes(8, "little") + data):
        path.write_bytes(content)
        with pytest.raises(BridgeError) as error:
            read_header(path)
        assert "\n" not in str(error.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="check the path"):
        identify(tmp_path / "none")


def test_a_controlnet_beside_the_whole_model_that_it_was_trained_on(tmp_path: Path) -> None:
    """As the first ControlNets were published."""
    keys = ("control_model.input_hint_block.0.weight", "model.diffusion_model.out.2.weight")
    assert identify(save(tmp_path / "x.safetensors", *keys)).kind == "ControlNet"
