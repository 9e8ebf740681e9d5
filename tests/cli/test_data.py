"""`bdm data`: a look at a folder, and shards that `bdm train` reads."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from colours import colour_folder

Bdm = Callable
PREPARE = ["prepare", "nowhere", "--out", "x", "--bridge", "zh"]


def test_inspect_prints_and_writes_the_report(bdm: Bdm, tmp_path: Path) -> None:
    folder = colour_folder(tmp_path / "pairs")
    (folder / "red.png").write_bytes(b"")
    outcome = bdm("data", "inspect", folder, "--min-side", 20, "--out", tmp_path / "report")
    assert outcome.code == 0
    assert outcome.lines[0] == "3 of 4 pairs kept, with 3 of 3 captions"
    assert outcome.lines[-1] == str(tmp_path / "report" / "report.html")
    values = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert bdm("data", "inspect", folder, "--min-side", 20, "--json").json() == values
    assert values["dropped"] == {"unusable": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect"], "no data is named"),
        (["inspect", "nowhere"], "no data at 'nowhere'"),
        (["inspect", "nowhere", "--max-aspect", "0"], "--max-aspect is 0.0"),
        (["prepare", "nowhere"], "out is missing"),
        (["prepare", "nowhere", "--out", "x"], "give either --text-encoder, or --bridge"),
        ([*PREPARE, "--engine", "cloud"], "--engine is 'cloud'; there are local and ray"),
        ([*PREPARE, "--ray-address", "auto"], "--ray-address needs --engine ray"),
        ([*PREPARE, "--engine", "ray", "--replicas", "0"], "--replicas is 0"),
        ([*PREPARE, "--engine", "ray", "--device", "cuda:1"], "Ray itself gives each process"),
    ],
)
def test_a_mistake_is_one_line(bdm: Bdm, arguments: list[str], words: str) -> None:
    outcome = bdm("data", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err


def test_without_the_extra_ray_is_named(bdm: Bdm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = bdm("data", *PREPARE, "--engine", "ray")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "needs the extra `ray`: pip install 'bridge-diffusion[ray]'" in outcome.err
