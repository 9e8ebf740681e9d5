"""Hugging Face datasets: which columns are read, and what is said where that is not plain."""

from pathlib import Path

import pytest
from colours import COLOURS, colour_table, png

from bridge_diffusion.data.pairs import UnreadablePicture, UnusablePair
from bridge_diffusion.data.tables import PairTable, open_table
from bridge_diffusion.errors import BridgeError

datasets = pytest.importorskip("datasets")


def opened(place: Path, **options: object) -> PairTable:
    given = {"split": "", "config": "", "fields": (), "picture": ""} | options
    return open_table(str(place), **given)  # type: ignore[arg-type]


def test_rows_are_pairs_and_damaged_ones_are_named(tmp_path: Path) -> None:
    rows = [
        {"picture": png("red"), "zh": "红", "ja": ["赤"]},
        {"picture": b"no picture", "zh": "坏", "ja": []},
        {"picture": None, "zh": "无", "ja": []},
        {"picture": png("red"), "zh": None, "ja": []},
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    data = opened(tmp_path)
    assert data[0].tagged() == (("zh", "红"), ("ja", "赤"))
    assert data[0].image.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(UnreadablePicture, match=r"^1 is no readable picture"):
        data[1]
    for index, reason in ((2, "no picture"), (3, "no caption")):
        with pytest.raises(UnusablePair, match=rf"^{index} cannot be used .{reason}"):
            data[index]
    assert opened(tmp_path, fields=("ja",))[0].captions == ("赤",)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, colours in (("a", COLOURS), ("b", COLOURS), ("c", {**COLOURS, "红色": "black"})):
        colour_table(colours).save_to_disk(str(tmp_path / name))
    same, also, other = (opened(tmp_path / name).fingerprint for name in "abc")
    assert same == also != other
    assert opened(tmp_path / "a", fields=("text",)).fingerprint != same


def test_splits_and_columns_are_named_where_they_are_not_plain(tmp_path: Path) -> None:
    table = colour_table()
    datasets.DatasetDict({"a": table, "b": table.select([1])}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(BridgeError, match=r"has the splits a, b: name one, as in .*,split=a"):
        opened(tmp_path / "two")
    assert len(opened(tmp_path / "two", split="b")) == 1
    table.rename_column("text", "said").save_to_disk(str(tmp_path / "said"))
    with pytest.raises(BridgeError, match=r",captions=COLUMN; it has image, said"):
        opened(tmp_path / "said")
    assert opened(tmp_path / "said", fields=("said",))[0].captions == ("红色",)
    with pytest.raises(BridgeError, match="has no column 'x'; it has image, said"):
        opened(tmp_path / "said", fields=("x",))
    table.remove_columns("image").save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(BridgeError, match="no column of pictures"):
        opened(tmp_path / "texts")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(BridgeError, match="cannot be opened as a data set"):
        opened(tmp_path / "bad.parquet")
