"""`bdm plugins`: what files of the community are, and what of them fits a model."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from bridge_diffusion.worlds.emoji.paths import plugins_folder

from .conftest import Trap

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"


@pytest.fixture
def lora(model: Path, tmp_path: Path) -> Path:
    """Made for the tiny model, with a trainer's notes and two keys that fit nothing."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q"]), "made")
    tensors = get_peft_model_state_dict(unet, adapter_name="made")
    state = convert_state_dict_to_kohya({f"unet.{k}": v for k, v in tensors.items()})
    for matrix in ("lora_down", "lora_up"):
        state[f"lora_unet_mid_block_nothing.{matrix}.weight"] = torch.zeros(4, 4)
    notes = {"modelspec.trigger_phrase": "snw", "modelspec.title": "Snow", "ss_tag_frequency": "{}"}
    save_file(state, tmp_path / "snow.safetensors", notes)
    return tmp_path / "snow.safetensors"


def test_a_lora_and_its_fit(bdm: Callable, model: Path, lora: Path) -> None:
    outcome = bdm("plugins", lora, "--model", model)
    assert outcome.code == 0, outcome.err
    assert outcome.lines[0] == f"{lora}: LoRA"
    for line in ("  title: Snow", "  layout: kohya", "  rank: 4", "  trigger_words: snw"):
        assert line in outcome.lines
    assert outcome.lines[-1] == "  loads: unet 16 of 18 keys"
    (shown,) = bdm("plugins", lora, "--model", model, "--json").json()
    assert shown["loads"]["parts"] == {"unet": {"matched": 16, "of": 18}}
    assert shown["details"]["metadata"]["modelspec.title"] == "Snow"


def test_the_hash_leaves_the_notes_out(bdm: Callable, tmp_path: Path) -> None:
    """As the community's sites count it, a retitled file is the same one."""
    hashes = []
    for number, title in ((0, "one"), (0, "another"), (1, "one")):
        path = tmp_path / "x.safetensors"
        save_file({KEY: torch.full((2, 768), float(number))}, path, {"modelspec.title": title})
        hashes.append(bdm("plugins", path, "--json").json()[0]["hash"])
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 12


def test_a_folder_with_all_kinds(bdm: Callable, model: Path, lora: Path) -> None:
    folder = lora.parent
    (folder / "sub").mkdir()
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 32)}, "name": "x"},
        folder / "mood.pt",
    )
    save_file({KEY: torch.zeros(4, 2048)}, folder / "sub" / "xl.safetensors")
    (folder / "cut.safetensors").write_bytes(lora.read_bytes()[:-9])
    (folder / "notes.txt").touch()
    outcome = bdm("plugins", folder, "--model", model, "--json")
    assert outcome.code == 0, outcome.err
    shown = {Path(each["path"]).name: each for each in outcome.json()}
    assert set(shown) == {"cut.safetensors", "mood.pt", "snow.safetensors", "xl.safetensors"}
    assert "cut short" in shown["cut.safetensors"]["error"]
    assert shown["mood.pt"]["kind"] == "textual inversion"
    assert shown["mood.pt"]["loads"] == {"fits": True, "message": "as 'mood'", "parts": {}}
    assert shown["xl.safetensors"]["family"] == "sdxl"
    assert not shown["xl.safetensors"]["loads"]["fits"]
    text = bdm("plugins", folder, "--model", model).out
    assert f"{folder}/cut.safetensors: cannot be read\n" in text
    assert "  does not load: --lora" in text


def test_a_model_in_one_file(bdm: Callable, tmp_path: Path) -> None:
    """Compared with the networks of Stable Diffusion 1.5 themselves; no weight is read."""
    checkpoint, lora = tmp_path / "any.safetensors", tmp_path / "x.safetensors"
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: torch.zeros(320, 768)}, checkpoint)
    up = KEY.replace("lora_down", "lora_up")
    save_file({KEY: torch.zeros(4, 768), up: torch.zeros(320, 4)}, lora)
    outcome = bdm("plugins", lora, "--model", checkpoint)
    assert outcome.lines[-1] == "  loads: unet 2 of 2 keys"
    assert outcome.lines[0] == f"{lora}: LoRA, Stable Diffusion 1.5"


def test_folders_of_networks(bdm: Callable, model: Path, bridge: Path) -> None:
    shown = bdm("plugins", bridge, model / "vae", "--model", model, "--json").json()
    assert [each["kind"] for each in shown] == ["bridge", "VAE"]


def test_what_no_option_takes_does_not_load(bdm: Callable, model: Path, tmp_path: Path) -> None:
    save_file({"something.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    shown = bdm("plugins", tmp_path / "x.safetensors", model, "--model", model, "--json").json()
    assert [each["loads"]["fits"] for each in shown] == [False, False]


def test_what_is_shipped_is_listed_and_found_by_name(
    bdm: Callable, lora: Path, tmp_path: Path
) -> None:
    """Without arguments; the user's own folder comes first."""
    outcome = bdm("plugins")
    assert outcome.code == 0, outcome.err
    kinds = {"ink": "LoRA", "comic": "LoRA", "lemon": "textual inversion"}
    names = sorted(path.stem for path in plugins_folder().iterdir())
    assert "comic" in names
    assert [line.partition(":")[0] for line in outcome.lines] == names
    for line in outcome.lines:
        name, _, facts = line.partition(": ")
        pattern = rf"{kinds[name]}, emoji world, 0\.\d\d MiB, shipped with bdm"
        assert re.fullmatch(pattern, facts), line
    lines = bdm("plugins", "--plugins", lora.parent).lines
    assert lines[0].startswith("snow: LoRA, family not known, 0.0")
    assert lines[0].endswith(str(lora))
    assert lines[1:] == outcome.lines
    shown = bdm("plugins", "comic").lines
    assert shown[0].endswith("comic.safetensors: LoRA, emoji world")
    assert "  layout: diffusers" in shown
    (found,) = bdm("plugins", "comic", "--json").json()
    assert (found["name"], found["from"]) == ("comic", "shipped with bdm")
    assert found["bytes"] == Path(found["path"]).stat().st_size
    own = shutil.copy(lora, tmp_path / "comic.safetensors")
    (found,) = bdm("plugins", "comic", "--plugins", tmp_path, "--json").json()
    assert found["path"] == str(own)


def test_mistakes(bdm: Callable, lora: Path, tmp_path: Path) -> None:
    torch.save({"x": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    for arguments, words in (
        ((tmp_path / "none",), "nothing at"),
        (("comik",), "near it: comic"),
        (("--plugins", tmp_path / "none"), "is no folder"),
        ((tmp_path / "trap.pt",), "was not executed"),
        ((lora, "--model", lora), "is a LoRA, not a whole model"),
        ((lora, "--model", "owner/name"), "is not here"),
    ):
        outcome = bdm("plugins", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert words in outcome.err
    assert "was not executed" in bdm("plugins", tmp_path).out
    assert not (tmp_path / "sprung").exists()
