"""What is trained and drawn to measure plug-ins, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["world", "plugin", "hypernetwork"], "checkpoint, lora, lora-ink, controlnet"),
        (["world", "plugin", "lora", "--recipe", "full"], "debug, cpu"),
        (["world", "plugin", "lora", "--minutes", 0], "--minutes is 0, it must be above 0"),
        (["world", "baseline", "translation"], "translated, native, scratch, adapter"),
        (["world", "baseline", "native", "--recipe", "full"], "debug, cpu"),
        (["world", "style-evaluator", "--minutes", -1], "--minutes is -1"),
        (["evaluate", "plugins", "--plugins", "nowhere", "--language", "en"], "zh, ja, ar, hi, es"),
        (["evaluate", "plugins", "--plugins", "nowhere", "--bridge", "none"], "give a bridge"),
        (["evaluate", "plugins", "--plugins", "nowhere", "--plugin", "x"], "there are checkpoint"),
        (["evaluate", "plugins", "--plugins", "nowhere", "--styles", "nowhere"], "no evaluator in"),
        (["evaluate", "two-languages", "--steps", 0], "steps is 0"),
        (["evaluate", "two-languages", "--bridge", "none"], "give a bridge"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    bdm: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = bdm(*words, *(["--out", "out"] if "--out" not in words else []))
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_plug_in_that_is_missing_is_told_before_anything_is_drawn(
    bdm: Callable, tmp_path: Path
) -> None:
    outcome = bdm(
        "evaluate", "plugins", "--plugins", tmp_path, "--out", tmp_path / "out",
        "--work", tmp_path / "work", "--concepts", 1, "--things", 1, "--steps", 1,
    )  # fmt: skip
    assert outcome.code == 2
    assert "bdm world plugin checkpoint --out" in outcome.err
    assert not (tmp_path / "work").exists()


def test_two_languages_from_the_command_to_the_page(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path
) -> None:
    outcome = bdm(
        "evaluate", "two-languages", "--model", model, "--bridge", bridge, "--pairs", 3,
        "--steps", 1, "--work", tmp_path / "work", "--out", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.lines[-1] == str(tmp_path / "out" / "results.md")
    page = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "3 prompt pairs of scored scenes" in page
    assert "## Two languages in one image: zh and English" in page


def test_without_a_folder_the_shipped_plug_ins_are_measured(bdm: Callable, tmp_path: Path) -> None:
    outcome = bdm(
        "evaluate", "plugins", "--system", "translation", "--concepts", 1, "--things", 1,
        "--steps", 1, "--work", tmp_path / "work", "--out", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    seen = json.loads((tmp_path / "work" / "plugins-zh.json").read_text())["systems"]["translation"]
    assert set(seen) == {
        "plain", "plain+lora", "plain+lora-ink", "plain+inversion", "lemon", "lemon+inversion"
    }  # fmt: skip
