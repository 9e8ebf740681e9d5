"""The report: a section that can be replaced, plain JSON, pictures that exist."""

import csv
import dataclasses
import json
import re

import pytest
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.page import check_folder, replace_section
from bridge_diffusion.evaluation.plan import WorldOptions, plan
from bridge_diffusion.evaluation.report import to_json, write_report
from bridge_diffusion.evaluation.world import WorldResult, judge, score_outcomes


@pytest.fixture
def result(concepts, untrained, drawings) -> WorldResult:
    evaluator = untrained(concepts)
    cases = [case for batch in plan(concepts, WorldOptions(), {"en": "en"}) for case in batch]
    pictures = [case.scene.render(drawings, 64) for case in cases]
    outcomes = judge(evaluator, cases, pictures)
    rates = {"top1": {"share": 0.9}, "top5": {"share": 0.99}}
    return WorldResult(
        options=WorldOptions(),
        concepts=4,
        scores=tuple(score_outcomes(outcomes)),
        outcomes=tuple(outcomes),
        evaluator={"noto": dict.fromkeys(("clean", "degraded", "strongly_degraded"), rates)},
        controls={"en": "en"},
        complete=True,
        seconds=1.0,
    )


def test_the_report_is_whole(result, tmp_path):
    written = write_report(result, tmp_path, {"model": "a model", "bridge": "a bridge"})
    assert all(path.is_file() for path in written)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    for part in ("a bridge", "红包", "control en", "| noto | 90.0 % / 99.0 % |", "of all 4"):
        assert part in page
    links = re.findall(r"\]\((.*?)\)", page)
    assert len(links) == 4  # two probes, two groups
    for link in links:
        with Image.open(tmp_path / link) as picture:
            assert picture.format == "WEBP"
            picture.load()
    document = json.loads((tmp_path / "world-zh.json").read_text(encoding="utf-8"))
    assert document == json.loads(json.dumps(to_json(result, document["about"])))
    bridge = next(
        s for s in document["scores"] if (s["condition"], s["group"]) == ("bridge", "native")
    )
    with (tmp_path / "world-zh.csv").open(encoding="utf-8", newline="") as file:
        pictures = list(csv.DictReader(file))
    assert len(pictures) == len(result.outcomes)
    right = [
        p["rank"] == "0" for p in pictures if (p["condition"], p["group"]) == ("bridge", "native")
    ]
    assert bridge["top1"]["hits"] == sum(right)
    assert bridge["top1"]["count"] == len(right) == 2


def test_writing_again_changes_nothing_but_its_own_section(result, tmp_path):
    write_report(result, tmp_path, {"bridge": "old.safetensors"})
    page = tmp_path / "results.md"
    page.write_text("before\n\n" + page.read_text(encoding="utf-8") + "\nafter\n", encoding="utf-8")
    write_report(result, tmp_path, {"bridge": "new.safetensors"})
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "new.safetensors" in text
    assert "old.safetensors" not in text


def test_a_run_that_drew_nothing_is_reported(result, tmp_path):
    empty = dataclasses.replace(result, outcomes=(), scores=(), complete=False, evaluator={})
    write_report(empty, tmp_path, {})
    assert "cut short" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_sections_side_by_side():
    page = replace_section("", "world zh", "one")
    page = replace_section(page, "world ja", "two")
    page = replace_section(page, "world zh", "three\\1")
    assert page.count("<!-- begin:") == 2
    assert "one" not in page
    assert page.index("three\\1") < page.index("two")


def test_a_lost_mark_is_an_error():
    page = replace_section("", "world zh", "one").replace("<!-- end: world zh -->", "")
    with pytest.raises(BridgeError, match="marks"):
        replace_section(page, "world zh", "two")


def test_a_folder_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BridgeError):
        write_report(result, tmp_path / "file", {})
    with pytest.raises(BridgeError, match="choose another place"):
        check_folder(tmp_path / "file" / "below")
    check_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
