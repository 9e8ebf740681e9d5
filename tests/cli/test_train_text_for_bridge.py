"""`bdm train-text --bridge`: another language for a branch that stays as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.text import NativeTextEncoder

WORDS = {"狐狸": "mbweha", "红包": "bahasha nyekundu", "雪地": "theluji", "月饼": "keki"}
SMALL = ("--layers", 1, "--batch-size", 4, "--hold-out", 0)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in WORDS.items()), encoding="utf-8")
    return path


@torch.no_grad()
def residuals(bridge: Bridge, text: str) -> torch.Tensor:
    """What the branch adds to the mid block for one noisy picture and a prompt."""
    native = bridge.text_encoder.encode([text])
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return bridge.branch(sample, 500, native.hidden, native.mask)[1].flatten()


def test_the_branch_reads_the_new_language_as_its_own(
    bdm: Callable, model: Path, bridge: Path, words: Path, tmp_path: Path
) -> None:
    given = ("train-text", "--parallel", words, "--bridge", bridge, "--model", model, *SMALL)
    asked = (*given, "--language", "sw", "--images", 1600, "--lr", 1e-2, "--out", tmp_path / "run")
    outcome = bdm(*asked)
    assert outcome.code == 0, outcome.err
    assert outcome.lines == [str(tmp_path / "run" / "export")]
    old, new = (Bridge.from_pretrained(folder) for folder in (bridge, tmp_path / "run" / "export"))
    assert new.config.languages == ("sw",)
    assert new.config.training_data == f"{old.config.training_data}; then 4 translated captions"
    ours, theirs = new.branch.state_dict(), old.branch.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    originals = {text: residuals(old, text) for text in ("", *WORDS)}
    for original, translation in {"": "", **WORDS}.items():
        read = residuals(new, translation)
        nearest = min(originals, key=lambda text: (originals[text] - read).norm().item())
        assert nearest == original
    curve = (tmp_path / "run" / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [values["loss"] for line in curve if "loss" in (values := json.loads(line))]
    assert losses[-1] < 0.2 * losses[0]

    # The bridge that came out may be trained on, and its text encoder named by its folder.
    export = tmp_path / "run" / "export"
    further = bdm(*given, "--images", 8, "--start", export, "--out", tmp_path / "further")
    assert further.code == 0, further.err
    encoders = [NativeTextEncoder.from_pretrained(export / "text_encoder")]
    encoders.append(Bridge.from_pretrained(tmp_path / "further" / "export").text_encoder)
    assert encoders[0].tokenizer.get_vocab() == encoders[1].tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "x"), "give either --data and --image-tower"),
        (("--width", 16), "leave out --width"),
        (("--batch-size", 5), "a batch of 5 is more than the 4 pairs"),
        (("--start", "emoji:zh"), "gives states of width 192, the branch of --bridge"),
        (("--bridge", "none"), "is no bridge to start from"),
    ],
)
def test_what_does_not_fit_is_one_line(
    bdm: Callable,
    model: Path,
    bridge: Path,
    words: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    given = ("--parallel", words, "--bridge", bridge, "--model", model, *SMALL)
    outcome = bdm("train-text", *given, "--out", tmp_path / "run", *arguments)
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert last.startswith("bdm: error: ")
    assert message in last
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--model", "--language"])
def test_options_of_a_bridge_need_one(bdm: Callable, tmp_path: Path, option: str) -> None:
    given = ("--parallel", "x", "--teacher", "y", "--out", tmp_path / "run")
    outcome = bdm("train-text", *given, option, "sw")
    assert outcome.code == 2
    assert f"{option} is for --bridge, which is missing" in outcome.err
