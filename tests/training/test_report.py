"""The page about a run: whole in one file, and made of the run's folder alone."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.curves import CurveFile
from bridge_diffusion.training.report import finish_run, write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "zh <1>"
    (folder / "samples").mkdir(parents=True)
    settings = {
        "loop": {"images": 64, "learning_rate": 1e-5, "device": "cpu"},
        "task": {"sample_prompts": ["红包 <b>", "فانوس"], "data": "abc"},
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    curves = CurveFile(folder, 0)
    for images in (16, 32):
        values = {"loss": 1 / images, "unweighted": 1 / images, "images_per_second": 2.0}
        bands = {f"loss_by_timestep/{band}": 0.5 for band in ("1000-1499", "0-499", "500-999")}
        curves.add({**values, **bands, "peak_memory_gib": 1.5}, images)
        curves.add({"of its own": 3.0}, images)
    for number in range(1, 21):
        Image.new("RGB", (8, 8)).save(folder / "samples" / f"{number:08d}.png")
    return folder


def test_the_report_tells_the_run_and_needs_no_other_file(run: Path) -> None:
    page = finish_run(run, {"damaged.png": "truncated"}).read_text(encoding="utf-8")
    assert "32 of 64 (50%)" in page
    assert 'training, without drawing</th><td class="value" dir="auto">16 s' in page
    assert 'left at the last speed</th><td class="value" dir="auto">16 s' in page
    assert "1.50 GiB of the process" in page
    assert "damaged.png" in page
    assert "红包 &lt;b&gt;" in page
    assert "zh &lt;1&gt;" in page
    places = [page.index(f"</i>{band}<") for band in ("0-499", "500-999", "1000-1499")]
    assert places == sorted(places)
    assert "of its own" in page, "a curve that nobody foresaw is drawn too"
    assert page.count("data:image/png;base64,") == 6
    assert "6 of 20 grids" in page
    assert "1 images" in page
    assert "20 images" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<script" not in page


def test_a_run_that_has_logged_nothing_has_a_report(run: Path) -> None:
    (run / "curves.jsonl").unlink()
    assert "Nothing was logged yet" in write_report(run).read_text(encoding="utf-8")


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="is no training run"):
        write_report(tmp_path)
    (run / "skipped.json").write_text("[1]")
    with pytest.raises(BridgeError, match=r"skipped\.json is damaged"):
        write_report(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(BridgeError, match="cannot be read"):
        write_report(run)
