"""The curves of a run as text."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.curves import FILE, CurveFile, read_curves


def test_what_is_added_is_read_in_the_order_of_the_images(tmp_path: Path) -> None:
    curves = CurveFile(tmp_path, 0)
    curves.add({"loss": 0.5}, 16)
    curves.add({"loss": 0.25, "gradient_norm": float("inf")}, 32)
    curves.add({"probe/native_top1": 0.125}, 32)
    assert read_curves(tmp_path) == {
        "loss": [(16, 0.5), (32, 0.25)],
        "gradient_norm": [(32, float("inf"))],
        "probe/native_top1": [(32, 0.125)],
    }


def test_a_run_that_goes_on_forgets_what_was_beyond_its_checkpoint(tmp_path: Path) -> None:
    curves = CurveFile(tmp_path, 0)
    for images in (16, 32, 48):
        curves.add({"loss": 1.0}, images)
    CurveFile(tmp_path, 32).add({"loss": 2.0}, 48)
    assert read_curves(tmp_path)["loss"] == [(16, 1.0), (32, 1.0), (48, 2.0)]


def test_a_cut_last_line_is_left_out_and_another_damaged_one_is_named(tmp_path: Path) -> None:
    whole = json.dumps({"images": 16, "loss": 1.0})
    (tmp_path / FILE).write_text(f'{whole}\n{{"images": 32, "lo', encoding="utf-8")
    assert read_curves(tmp_path) == {"loss": [(16, 1.0)]}
    (tmp_path / FILE).write_text(f"[]\n{whole}\n", encoding="utf-8")
    with pytest.raises(BridgeError, match="damaged in line 1"):
        read_curves(tmp_path)
    assert read_curves(tmp_path / "nowhere") == {}


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_the_file_holds_it_is_read_or_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "curves"
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(content)
    try:
        curves = read_curves(folder)
    except BridgeError:
        return
    assert all(isinstance(value, float) for points in curves.values() for _, value in points)
