"""What is no LoRA, or none that fits, is refused and says why; nothing of it is left out unseen."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bridge_diffusion import BridgeError
from bridge_diffusion.plugins.lora import load_lora, match_lora, networks_of

from .conftest import (
    Trap,
    refusal,
    saved,
)

Pipe = Any


def test_missing_and_damaged_files(pipe: Pipe, tmp_path: Path) -> None:
    assert "check the path" in refusal(pipe, tmp_path / "none.safetensors")
    path = tmp_path / "cut.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    assert "cut short" in refusal(pipe, path)
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04nonsense")
    assert "no whole .pt file" in refusal(pipe, tmp_path / "cut.pt")
    (tmp_path / "page.pt").write_text("<html>")
    assert "no whole .pt file" in refusal(pipe, tmp_path / "page.pt")


def test_a_pickle_with_code_is_not_executed(pipe: Pipe, tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors"):
        torch.save({"x": Trap(tmp_path / "sprung")}, tmp_path / name)
        assert "pickle" in refusal(pipe, tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(2, 32).to_sparse(),
        torch.zeros(2, 32, device="meta"),
        torch.zeros(2, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    ],
)
def test_numbers_that_cannot_be_computed_with(
    pipe: Pipe, tmp_path: Path, odd: torch.Tensor
) -> None:
    torch.save({"lora_unet_x.lora_down.weight": odd}, tmp_path / "x.pt")
    assert "stored in a way that is not read" in refusal(pipe, tmp_path / "x.pt")


def test_a_pickle_that_holds_itself(pipe: Pipe, tmp_path: Path) -> None:
    table: dict = {}
    table["state_dict"] = table
    torch.save(table, tmp_path / "x.pt")
    assert "not a LoRA" in refusal(pipe, tmp_path / "x.pt")


def test_other_kinds(pipe: Pipe, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(2, 2)}, path)
    message = refusal(pipe, path)
    assert "is a Stable Diffusion checkpoint, not a LoRA; give it with --model" in message
    ControlNetModel.from_unet(pipe.unet).save_pretrained(tmp_path / "net")
    weights = tmp_path / "net" / "diffusion_pytorch_model.safetensors"
    assert "is a ControlNet, not a LoRA; give it with --control-net" in refusal(pipe, weights)
    save_file({"emb_params": torch.zeros(2, 768)}, path)
    assert "give it with --embedding" in refusal(pipe, path)
    assert "not a LoRA" in refusal(pipe, tmp_path / "net")


def test_another_family(pipe: Pipe, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    save_file({key: torch.zeros(4, 2048)}, path)
    message = refusal(pipe, path)
    assert "made for SDXL, but the model is Stable Diffusion 1.5" in message
    save_file(
        {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 8)}, path
    )
    assert "Flux" in refusal(pipe, path)
    for prefix in ("diffusion_model.double_blocks.0.img_attn.qkv", "lora_unet_double_blocks_0_x"):
        save_file({f"{prefix}.lora_{m}.weight": torch.zeros(4, 8) for m in ("A", "B")}, path)
        assert "Flux" in refusal(pipe, path)


def test_a_layer_of_another_size(
    pipe: Pipe, taught: tuple, new_pipe: Callable, tmp_path: Path
) -> None:
    unet, _, _ = taught
    key = next(k for k in unet if "attn2.to_k.lora_A" in k)
    path = saved(tmp_path, {**unet, key: torch.zeros(4, 48)})
    assert "is of size 48, the model's layer of 32" in refusal(new_pipe(), path)


def test_no_key_that_fits(pipe: Pipe, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = {f"unet.nowhere.lora_{m}.weight": torch.zeros(2, 2) for m in "AB"}
    save_file(state, path)
    assert "none of its 2 keys fits" in refusal(pipe, path)


def test_keys_that_fit_nothing_are_told(
    pipe: Pipe, taught: tuple, new_pipe: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unet, _, _ = taught
    more = {f"nowhere.lora_{m}.weight": torch.zeros(2, 2) for m in "AB"}
    with caplog.at_level(logging.WARNING, "bridge_diffusion"):
        report = load_lora(new_pipe(), saved(tmp_path, {**unet, **more}))
    assert report.matched == len(unet)
    assert report.unmatched == ("unet.nowhere.lora_A.weight", "unet.nowhere.lora_B.weight")
    assert "2 of the keys" in caplog.text


@pytest.mark.parametrize(
    ("suffixes", "words"),
    [
        (["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"], "LoHa"),
        (["lokr_w1", "lokr_w2"], "LoKr"),
        (["lora_down.weight", "lora_mid.weight", "lora_up.weight"], "middle matrix"),
        (["lora_down.weight"], "a part of the file missing"),
        (["diff"], "difference of whole weights"),
        (["a1.weight", "a2.weight", "b1.weight", "b2.weight"], "GLoRA"),
        (["lora_down.weight", "lora_up.weight", "w_norm"], "trained norms"),
    ],
)
def test_what_diffusers_does_not_load(
    pipe: Pipe, tmp_path: Path, suffixes: list[str], words: str
) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "x.safetensors"
    save_file({f"{name}.{suffix}": torch.zeros(4, 4) for suffix in suffixes}, path)
    assert words in refusal(pipe, path)


@pytest.mark.parametrize(("matrix", "method"), [("ia3_l", "IA3"), ("vera_lambda_b", "VeRA")])
def test_what_peft_saves_of_other_methods(
    pipe: Pipe, tmp_path: Path, matrix: str, method: str
) -> None:
    layer = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    save_file({f"{layer}.{matrix}": torch.zeros(32)}, tmp_path / "x.safetensors")
    assert f"of the method {method}" in refusal(pipe, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("to_k.lora_A.weight", None, "are no pair"),
        ("to_k.lora_A.weight", torch.zeros(8, 32), "are no pair"),
        ("to_k.lora_A.weight", torch.zeros(4), "is no matrix"),
        ("to_k.lora_A.weight", torch.zeros(0, 32), "holds no numbers"),
        ("to_k.lora_A.weight", torch.full((4, 32), torch.nan), "NaN"),
        ("to_k.lora_A.weight", torch.zeros(4, 32, dtype=torch.int8), "holds no numbers"),
        ("to_k.alpha", torch.zeros(2), "alpha in it is no number"),
    ],
)
def test_numbers_that_make_no_lora(
    pipe: Pipe, tmp_path: Path, key: str, tensor: torch.Tensor | None, words: str
) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1."
    state = {"to_k.lora_A.weight": torch.zeros(4, 32), "to_k.lora_B.weight": torch.zeros(32, 4)}
    state |= {"to_q.lora_A.weight": torch.zeros(4, 32), "to_q.lora_B.weight": torch.zeros(32, 4)}
    state[key] = tensor
    state = {f"{layer}{k}": v for k, v in state.items() if v is not None}
    save_file(state, tmp_path / "x.safetensors")
    assert words in refusal(pipe, tmp_path / "x.safetensors")


SHAPES = st.sampled_from([(4, 32), (32, 4), (4,), (), (0, 4), (2, 32), (4, 8, 3, 3), (1, 1)])
ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEYS = st.builds(
    "{}{}.{}".format,
    st.sampled_from(["lora_unet_", "lora_te_", "lora_te2_", "unet.", "base_model.model.", ""]),
    st.sampled_from(
        [
            ATTENTION,
            ATTENTION.replace("_", "."),
            "text_model_encoder_layers_0_mlp_fc1",
            "input_blocks_1_1_proj_in",
            "x",
            "",
        ]
    ),
    st.sampled_from(
        ["lora_down.weight", "lora_up.weight", "alpha", "lora_A.weight", "lora_B.weight", "x"]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=st.dictionaries(KEYS, SHAPES, max_size=6))
def test_any_file_of_tensors_is_matched_or_refused(
    loaded_pipe: Pipe, tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, path)
    with contextlib.suppress(BridgeError):
        report, _ = match_lora(path, networks_of(loaded_pipe))
        assert report.matched


def test_the_same_name_twice(kohya_file: Path, new_pipe: Callable[[], Pipe]) -> None:
    pipe = new_pipe()
    load_lora(pipe, kohya_file)
    with pytest.raises(BridgeError, match="there is a LoRA 'style' already"):
        load_lora(pipe, kohya_file)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_what_diffusers_leaves_out_does_not_pass_unseen(
    kohya_file: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A loader that does nothing stands for a fault of the library."""
    monkeypatch.setattr(pipe, f"load_lora_into_{part}", lambda *args, **kwargs: None)
    assert f"the LoRA's key {part}." in refusal(pipe, kohya_file)


def test_senseless_settings(
    pipe: Pipe, taught: tuple, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    unet, _, _ = taught
    path = saved(tmp_path, unet)
    state = load_file(path)
    save_file(state, path, {"lora_adapter_metadata": "{"})
    assert "lora_adapter_metadata cannot be read" in refusal(new_pipe(), path)
    save_file(state, path, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": "x"})})
    assert "lora_alpha 'x'" in refusal(new_pipe(), path)
