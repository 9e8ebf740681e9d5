"""`bdm train-text`, from a folder of pairs or a file of translations to a text encoder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.text_towers import ImageTower

WORDS = {"红色": "red", "绿色": "green", "蓝色": "blue", "黄色": "yellow"}
SMALL = ("--width", 16, "--layers", 1, "--window", 8, "--images", 16, "--batch-size", 4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of two tiny towers with a tokenizer of single letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {**tower, "vocab_size": len(words), "bos_token_id": 52, "eos_token_id": 53}
    vision = {**tower, "image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for caption, colour in WORDS.items():
        Image.new("RGB", (12, 8), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(caption, encoding="utf-8")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("坏", encoding="utf-8")
    return folder


@pytest.mark.parametrize("live", [(), ("--no-cached",), ("--train-image-tower",)])
def test_a_new_encoder_from_pictures(
    bdm: Callable, clip: Path, pairs: Path, tmp_path: Path, live: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    arguments = ("train-text", "--data", pairs, "--image-tower", clip, "--out", out, *SMALL)
    outcome = bdm(*arguments, "--batch-size", 3, "--hold-out", 0.25, *live)
    assert outcome.code == 0, outcome.err
    assert outcome.lines == [str(out / "export")]
    assert "broken.png (" in outcome.err
    assert "of 1 captions that were never trained on" in outcome.err
    encoder = NativeTextEncoder.from_pretrained(out / "export")
    assert encoder.encode(["红色"]).hidden.shape == (1, 8, 16)
    assert (out / "export" / "image_tower").is_dir() == ("--train-image-tower" in live)
    again = bdm(*arguments, "--batch-size", 3, "--hold-out", 0.25, *live)
    assert again.code == 0, again.err


def test_a_new_image_tower_is_trained_beside_the_encoder(
    bdm: Callable, pairs: Path, tmp_path: Path
) -> None:
    given = ("train-text", "--data", pairs, "--image-tower", "new", *SMALL, "--batch-size", 3)
    once = bdm(*given, "--out", tmp_path / "once", "--images", 12)
    assert once.code == 0, once.err
    start = bdm(*given, "--out", tmp_path / "start", "--images", 12, "--lr", 1e-30)
    assert start.code == 0, start.err
    trained, untrained = (
        ImageTower.from_folder(tmp_path / name / "export" / "image_tower")
        for name in ("once", "start")
    )
    assert (trained.size, trained.features) == (64, 256)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(trained.parameters(), untrained.parameters(), strict=True)
    ]
    assert sum(moved) > len(moved) // 2
    # The tower of one run is the frozen tower of the next.
    tower = tmp_path / "once" / "export" / "image_tower"
    further = bdm(
        *("train-text", "--data", pairs, "--image-tower", tower, *SMALL, "--batch-size", 3),
        *("--start", tmp_path / "once" / "export", "--out", tmp_path / "further"),
    )
    assert further.code == 0, further.err


def test_an_encoder_from_translations_and_further_from_its_export(
    bdm: Callable, clip: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.tsv"
    lines = (f"{english}\t{native}" for native, english in WORDS.items())
    text.write_text("\n".join(lines), encoding="utf-8")
    given = ("--parallel", text, "--teacher", clip)
    assert bdm("train-text", *given, "--out", tmp_path / "first", *SMALL).code == 0
    first = tmp_path / "first" / "export"
    outcome = bdm(
        "train-text",
        *given,
        *("--start", first, "--out", tmp_path / "second", "--images", 8, "--batch-size", 4),
        *("--export-precision", "fp16"),
    )
    assert outcome.code == 0, outcome.err
    encoder = NativeTextEncoder.from_pretrained(tmp_path / "second" / "export")
    assert encoder.encoding.window == 8
    assert encoder.model.dtype == torch.float16


def test_few_pairs_are_one_batch(bdm: Callable, clip: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.tsv", tmp_path / "run"
    text.write_text("".join(f"{english}\t{native}\n" for native, english in WORDS.items()))
    arguments = ("--parallel", text, "--teacher", clip, "--out", out, *SMALL[:-2])
    outcome = bdm("train-text", *arguments)
    assert outcome.code == 0, outcome.err
    assert json.loads((out / "config.json").read_text())["loop"]["batch_size"] == len(WORDS)
    outcome = bdm("train-text", *arguments, "--batch-size", 5)
    assert outcome.code == 2
    assert "a batch of 5 is more than the 4 pairs to train on; give --batch-size 4" in outcome.err


def test_a_dry_run_prints_all_settings(bdm: Callable, tmp_path: Path) -> None:
    given = ("--data", "pairs", "--image-tower", "clip", "--out", tmp_path / "run")
    settings = json.loads(bdm("train-text", *given, "--dry-run").out)
    assert settings["lr"] == 5e-4
    assert settings["batch_size"] == 256
    further = json.loads(bdm("train-text", *given, "--start", "encoder", "--dry-run").out)
    assert further["lr"] == 5e-5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --data and --image-tower"),
        (("--data", "x"), "give either --data and --image-tower"),
        (("--data", "x", "--image-tower", "y", "--teacher", "z"), "give either --data"),
        (("--parallel", "x", "--teacher", "y", "--train-image-tower"), "needs --data"),
        (("--data", "x", "--image-tower", "y", "--hold-out", "1"), "hold_out is 1.0"),
        (("--data", "x", "--image-tower", "y", "--layers", "0"), "layers is 0"),
        (("--parallel", "x", "--teacher", "y", "--limit", "-1"), "limit is -1, it must be 1"),
        (("--data", "x", "--image-tower", "y", "--minutes", "0"), "--minutes is 0, it must"),
        (("--data", "x", "--image-tower", "nowhere"), "'nowhere' is not a folder"),
        (("--parallel", "nowhere.tsv", "--teacher", "y"), "nowhere.tsv cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    bdm: Callable, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = bdm("train-text", *arguments, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.err.startswith("bdm: error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_without_a_folder_for_the_run(bdm: Callable) -> None:
    assert "--out is missing" in bdm("train-text", "--data", "x", "--image-tower", "y").err


def test_another_run_is_not_continued(
    bdm: Callable, clip: Path, pairs: Path, tmp_path: Path
) -> None:
    given = ("--data", pairs, "--image-tower", clip, "--out", tmp_path / "run", *SMALL)
    assert bdm("train-text", *given).code == 0
    outcome = bdm("train-text", *given, "--seed", 1)
    assert outcome.code == 2
    assert "was started with" in outcome.err
