"""Captions of a folder in the other files that people keep them in."""

import json
from pathlib import Path

import pytest
from colours import png

from bridge_diffusion.data import PairFolder
from bridge_diffusion.errors import BridgeError

RED = png("red")


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_json_beside_a_picture(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "a.png": RED,
            "a.json": json.dumps({"zh": "红", "ja": ["赤"], "english": "on a beach"}),
            "b.png": RED,
            "b.json": json.dumps({"caption": "from json"}),
            "b.txt": "from text",
            "c.png": RED,
            "c.caption": "红\n红色",
        },
    )
    data = PairFolder(tmp_path)
    assert data[0].tagged() == (("zh", "红"), ("ja", "赤"))
    assert data[0].english == "on a beach"
    assert [data[1].captions, data[2].captions] == [("from text",), ("红", "红色")]
    assert PairFolder(tmp_path, fields=["caption"])[0].captions == ("from json",)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_table_of_the_folder_names_its_pictures(tmp_path: Path, form: str) -> None:
    rows = [("x/a.png", "红,\n包"), ("gone.png", "x"), ("b.png", "")]
    if form == "jsonl":
        table = "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in rows)
    else:
        table = "file_name,text\n" + "".join(f'{n},"{t}"\n' for n, t in rows)
    put(tmp_path, {"t/x/a.png": RED, "t/b.png": RED, f"t/metadata.{form}": table})
    data = PairFolder(tmp_path)
    assert [pair.captions for pair in (data[i] for i in range(len(data)))] == [("红, 包",)]
    assert data.left_out == {
        "t/b.png": "no caption",
        "t/gone.png": "named in a table, but not there",
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.json": "[1]"}, "a.json holds a list; a JSON object is needed"),
        ({"a.json": '{"caption": 3}'}, "a.json: caption holds a value of type int"),
        ({"metadata.jsonl": '{"text": "x"}'}, "row 1 has no file_name"),
        ({"metadata.jsonl": "\n{"}, "row 2 is no JSON"),
        ({"metadata.csv": "file_name,text\na.png,b,c\n", "b.json": ""}, ""),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, files: dict, words: str) -> None:
    put(tmp_path, {"a.png": RED, **files})
    if words:
        with pytest.raises(BridgeError, match=words):
            PairFolder(tmp_path)
    else:
        assert PairFolder(tmp_path)[0].captions == ("b",)


def test_files_of_other_systems(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "IMG_1.PNG": RED,
            "IMG_1.TXT": "红",
            "._IMG_1.PNG": b"\0\5\x16\7",
            "._IMG_1.txt": b"\0\5\x16\7\xff\xfe",
            ".ipynb_checkpoints/IMG_1.png": RED,
            ".ipynb_checkpoints/IMG_1.txt": "old",
            "b.png": RED,
            "b.json": b"\xef\xbb\xbf" + json.dumps({"caption": "from json"}).encode(),
        },
    )
    data = PairFolder(tmp_path)
    assert [(pair.key, pair.captions) for pair in (data[i] for i in range(len(data)))] == [
        ("IMG_1.PNG", ("红",)),
        ("b.png", ("from json",)),
    ]
    assert data.left_out == {}


def test_folders_that_are_links_are_read_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", {"a.png": RED, "a.txt": "红"})
    pictures = tmp_path / "pictures"
    put(pictures, {"b.png": RED, "b.txt": "红"})
    (pictures / "more").symlink_to(tmp_path / "elsewhere")
    (pictures / "round").symlink_to(pictures)
    data = PairFolder(pictures)
    assert [data[i].key for i in range(len(data))] == ["b.png", "more/a.png"]


def test_rows_end_where_their_line_does(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "text": "红\u2028红\x85色"},
        {"file_name": "b.png", "text": "红"},
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    put(tmp_path, {"a.png": RED, "b.png": RED, "metadata.jsonl": lines})
    assert len(PairFolder(tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "nyota".encode("utf-16-le"), "not UTF-8 text; save it as UTF-8"),
        ("metadata.csv", "file_name,text\na.png," + "x" * 200_000, "cannot be read as CSV"),
        ("a.json", '{"caption": "\\ud83c"}', r"caption holds \\ud83c, half a character"),
        ("a.json", '{"zh": "a", "english": "\\udc00"}', r"english holds \\udc00"),
    ],
)
def test_texts_that_are_none_are_one_line(
    tmp_path: Path, name: str, content: bytes | str, said: str
) -> None:
    put(tmp_path, {"a.png": RED, name: content})
    with pytest.raises(BridgeError, match=said):
        PairFolder(tmp_path)


def test_where_the_named_fields_are_nowhere(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": RED, "a.txt": "红"})
    with pytest.raises(BridgeError, match="has one in zh or ja; name other fields, or leave"):
        PairFolder(tmp_path, fields=("zh", "ja"))


def test_where_no_picture_is_found_the_endings_are_told(tmp_path: Path) -> None:
    put(tmp_path, {"a.heic": b"x", "a.txt": "红"})
    with pytest.raises(BridgeError, match=r"0 pictures .* pictures are \.bmp, .*\.jpg"):
        PairFolder(tmp_path)
