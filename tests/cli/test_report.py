"""`bdm report`: the page of a run, made anew."""

import json
from collections.abc import Callable
from pathlib import Path


def test_the_page_of_a_run_is_written_and_named(bdm: Callable, tmp_path: Path) -> None:
    settings = {"loop": {"images": 64}, "task": {}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    outcome = bdm("report", tmp_path)
    assert outcome.code == 0
    assert outcome.lines == [str(tmp_path / "report.html")]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_is_no_run_is_one_line(bdm: Callable, tmp_path: Path) -> None:
    outcome = bdm("report", tmp_path / "nowhere")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "is no training run" in outcome.err
