"""`bdm evaluate world`, from the command line to the files of its report."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_diffusion.worlds.emoji import concepts


@pytest.fixture
def evaluate(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable:
    """Run it with the tiny model and bridge on two concepts, into `out` of the test's folder."""
    few = (concepts.find_concept("red envelope"), concepts.find_concept("dog"))
    monkeypatch.setattr(concepts, "small_world", lambda language: few)

    def run(*arguments: object) -> object:
        return bdm(
            "evaluate", "world", "--model", model, "--bridge", bridge, "--steps", 1,
            "--out", tmp_path / "out", *arguments,
        )  # fmt: skip

    return run


def test_the_report_is_written(evaluate: Callable, bridge: Path, tmp_path: Path) -> None:
    outcome = evaluate("--control", f"twin={bridge}", "--json")
    assert outcome.code == 0, outcome.err
    scores = {(s["condition"], s["group"]): s for s in outcome.json()["scores"]}
    assert scores["bridge", "native"]["top1"]["count"] == 1
    assert scores["control:twin", "shared"]["top5"]["count"] == 1
    assert scores["drawing", "native"]["top1"]["share"] == 1.0
    out = tmp_path / "out"
    assert json.loads((out / "world-zh.json").read_text())["retrieval_among"] == 852
    assert "| 红包 | red envelope | ![red envelope](pictures/world-zh-1F9E7.webp)" in (
        out / "results.md"
    ).read_text(encoding="utf-8")
    assert (out / "pictures" / "world-zh-1F9E7.webp").is_file()
    # A twin of the bridge draws the same pictures from the same prompts.
    with (out / "world-zh.csv").open(encoding="utf-8", newline="") as file:
        pictures = list(csv.DictReader(file))
    found = {p["condition"]: p["found"] for p in pictures if p["concept"] == "1F9E7"}
    assert found["control:twin"] == found["bridge"]


def test_without_json_a_table_and_the_page(evaluate: Callable, tmp_path: Path) -> None:
    outcome = evaluate()
    assert outcome.code == 0, outcome.err
    assert "top-1" in outcome.out
    assert outcome.lines[-1] == str(tmp_path / "out" / "results.md")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--language", "en"], "zh, ja, ar, hi, es"),
        (["--images", 0], "images is 0"),
        (["--control", "twin"], "NAME=FOLDER"),
        (["--control", "a=b", "--control", "a=c"], "twice"),
        (["--control", "a=no-such-folder"], "no-such-folder"),
        (["--bridge", "none"], "give a bridge"),
        (["--minutes", -1], "--minutes is -1, it must be above 0"),
        (["--out", "/dev/null/x"], "/dev/null"),
    ],
)
def test_bad_input_is_one_line(
    evaluate: Callable, tmp_path: Path, options: list[object], message: str
) -> None:
    outcome = evaluate(*options)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
