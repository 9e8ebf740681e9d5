"""Every command of docs/new-language.md, as it stands there, only shorter."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bridge_diffusion.worlds.emoji import concepts

PAGE = Path(__file__).parents[2] / "docs" / "new-language.md"
WORDS = {"nyekundu": "red", "kijani": "green", "samaki bluu": "a blue fish", "njano": "yellow"}
SHORTER = {
    "train-text": "--images 8 --layers 1 --limit 40",
    "train": "--recipe debug --images 8 --limit 4",
    "generate": "--steps 1 --size 64x64",
    "doctor": "",
    "info": "",
    "world": "--count 40",
    "evaluate": "--steps 1",
}
"""What is added to each command: the last of an option counts."""
EVEN_SHORTER = {"evaluate two-languages": "--pairs 3"}
"""And to those of two words."""


def commands() -> list[str]:
    """The indented lines of the page that begin with `bdm`."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    bdm ")]


def test_the_page_goes_all_the_way() -> None:
    assert {command.split()[1] for command in commands()} == set(SHORTER)


def test_every_command_runs(bdm: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = (concepts.find_concept("red envelope"), concepts.find_concept("dog"))
    monkeypatch.setattr(concepts, "small_world", lambda language: few)
    pictures = tmp_path / "my-pictures"
    pictures.mkdir()
    for caption, colour in WORDS.items():
        Image.new("RGB", (80, 60), colour.split()[-1].replace("fish", "blue")).save(
            pictures / f"{colour}.png"
        )
        (pictures / f"{colour}.txt").write_text(f"{caption}\n", encoding="utf-8")
    lines = (f"{english}\t{native}\n" for native, english in WORDS.items())
    (tmp_path / "my-words.tsv").write_text("".join(lines), encoding="utf-8")
    for command in commands():
        words = shlex.split(command)[1:]
        shorter = f"{SHORTER[words[0]]} {EVEN_SHORTER.get(' '.join(words[:2]), '')}"
        if words[0] == "train-text" and "--bridge" not in words:
            shorter += " --width 16"  # a bridge says itself how wide its text encoder is
        if "--batch-size" in words:
            shorter += " --batch-size 4"
        outcome = bdm(*words, *shlex.split(shorter))
        assert outcome.code == 0, f"{command}\n{outcome.err}"
    assert (tmp_path / "runs" / "bridge" / "export" / "bridge.json").is_file()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert len(list((tmp_path / "pictures-ar").glob("*.png"))) == 1
    assert (tmp_path / "runs" / "results-ja" / "results.md").is_file()
    arabic = (tmp_path / "runs" / "results-ar" / "results.md").read_text(encoding="utf-8")
    assert "## Emoji world: ar" in arabic
    assert "## Two languages in one image: zh and ar" in arabic
