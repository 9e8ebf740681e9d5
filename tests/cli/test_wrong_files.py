"""Files that are something else than the option says: one clear line each, and nothing drawn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from .conftest import Trap

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
# What each option needs beside it.
OPTIONS = {
    "--lora": (),
    "--embedding": (),
    "--control-net": ("--control",),
    "--ip-adapter": ("--ip-image",),
    "--vae": (),
    "--model": (),
}
DAMAGED = {
    "picture.safetensors": "safetensors",
    "empty.safetensors": "safetensors",
    "cut.safetensors": "cut short",
    "page.safetensors": "safetensors",
    "pickle.safetensors": "pickle",
    "trap.pt": "",
    "empty.ckpt": "",
    "cut.pt": "",
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    Image.new("RGB", (64, 64), "red").save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.safetensors")
    (folder / "empty.safetensors").touch()
    (folder / "empty.ckpt").touch()
    (folder / "page.safetensors").write_text("<!doctype html><html>not found</html>" * 9)
    save_file({f"{ATTENTION}.lora_down.weight": torch.zeros(4, 768)}, folder / "cut.safetensors")
    whole = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("pickle.safetensors", "trap.pt"):
        torch.save({"x": Trap(folder / "sprung")}, folder / name)
    torch.save({"emb_params": torch.zeros(4, 32)}, folder / "cut.pt")
    (folder / "cut.pt").write_bytes((folder / "cut.pt").read_bytes()[:200])
    return folder


@pytest.mark.parametrize("option", OPTIONS)
def test_damaged_files(
    bdm: Callable, model: Path, bridge: Path, damaged: Path, picture: Path, option: str
) -> None:
    beside = [word for flag in OPTIONS[option] for word in (flag, picture)]
    which = [] if option == "--model" else ["--model", model]
    for name, words in DAMAGED.items():
        outcome = bdm(
            "generate", "x", *which, "--bridge", bridge, option, damaged / name, *beside,
            "--out", damaged / "out",
        )  # fmt: skip
        assert (outcome.code, outcome.out) == (2, ""), (name, outcome)
        assert outcome.err.startswith("bdm: error: "), name
        assert outcome.err.count("\n") == 1, (name, outcome.err)
        assert words in outcome.err, name
        assert name in outcome.err
    assert not (damaged / "sprung").exists()
    assert not (damaged / "out").exists()


def test_whole_files_of_another_kind(
    refused: Callable, collection: Path, tmp_path: Path, picture: Path
) -> None:
    path = tmp_path / "x.safetensors"

    def saved(state: dict[str, torch.Tensor]) -> Path:
        save_file(state, path)
        return path

    def pair(prefix: str, width: int = 32) -> dict[str, torch.Tensor]:
        down, up = torch.zeros(4, width), torch.zeros(32, 4)
        return {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}

    xl = pair(ATTENTION, 2048)
    assert "made for SDXL, but the model is Stable Diffusion 1.5" in refused(
        "x", "--lora", saved(xl)
    )
    nowhere = saved(pair("lora_unet_nowhere"))
    assert "none of its 2 keys fits the model" in refused("x", "--lora", nowhere)
    assert "is a ControlNet, not a LoRA; give it with --control-net" in refused(
        "x", "--lora", collection / "edges"
    )
    assert "folder of unknown content" in refused("x", "--lora", tmp_path)
    assert "vectors of width 48, the model's text encoder reads 32" in refused(
        "x", "--embedding", saved({"emb_params": torch.zeros(2, 48)})
    )
    assert "Stable Diffusion 2" in refused(
        "x", "--embedding", saved({"emb_params": torch.zeros(2, 1024)})
    )
    for suffixes, method in (
        (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), "LoHa"),
        (("lokr_w1", "lokr_w2_a", "lokr_w2_b"), "LoKr"),
        (("oft_blocks", "alpha"), "OFT"),
        (("weight", "on_input"), "IA3"),
        (("diff", "diff_b"), "difference of whole weights"),
    ):
        for prefix in (ATTENTION, "diffusion_model.input_blocks.1.1.proj_in"):
            state = saved({f"{prefix}.{suffix}": torch.ones(4, 4) for suffix in suffixes})
            message = refused("x", "--lora", state)
            # IA3's own names say nothing to ComfyUI, so such a file is of no known kind.
            assert method in message or "not a LoRA" in message
    save_file({"control_model.input_hint_block.0.weight": torch.zeros(4, 3, 3, 3)}, path)
    assert "is a ControlNet, not a VAE" in refused("x", "--vae", path)
    assert "x.safetensors" in refused("x", "--control-net", path, "--control", picture)
    save_file({"lora_controlnet": torch.zeros(1)}, path)
    assert "is a Control-LoRA" in refused("x", "--control-net", path, "--control", picture)
