"""WebDataset shards: what is read, what is damaged, and an index that never goes stale."""

import contextlib
import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from colours import COLOURS, colour_tars, png, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_diffusion.data.pairs import UnreadablePicture, UnusablePair
from bridge_diffusion.data.shards import TarShards, tars_at
from bridge_diffusion.data.tar_index import index_file, open_index, read_samples
from bridge_diffusion.errors import BridgeError

RED, GREEN = png("red"), png("green")


def test_pairs_come_in_the_order_of_tars_and_members(tmp_path: Path) -> None:
    data = TarShards(tars_at(str(colour_tars(tmp_path))))
    assert [data[i].captions for i in range(len(data))] == [(name,) for name in COLOURS]
    assert data[3].key == "00001.tar/yellow"
    assert data[3].image.getpixel((0, 0)) == (255, 255, 0)
    assert data.left_out == {}


def test_texts_of_every_kind(tmp_path: Path) -> None:
    tagged = json.dumps({"zh": "红", "ja": ["赤", "赤色"], "english": "on a beach"}).encode()
    members = {
        "a/1.b.png": RED,  # the name ends at its first dot: 1, with "b.png"
        "a/2.PNG": RED,
        "a/2.txt": "红\n红色\n".encode(),
        "a/2.en.txt": b"watercolor\n",
        "a/3.png": RED,
        "a/3.json": tagged,
        "a/4.png": RED,
        "a/4.json": b"[1]",
        "a/5.txt": b"alone",
        "a/6.png": RED,
    }
    data = TarShards([write_tar(tmp_path / "x.tar", members)])
    assert len(data) == 3
    assert (data[0].captions, data[0].english) == (("红", "红色"), "watercolor")
    assert data[1].tagged() == (("zh", "红"), ("ja", "赤"), ("ja", "赤色"))
    assert data[1].english == "on a beach"
    with pytest.raises(UnusablePair, match=r"a/4 cannot .* read: its JSON is a list"):
        data[2]
    assert data.left_out == {
        "x.tar/a/1": "no picture",
        "x.tar/a/5": "no picture",
        "x.tar/a/6": "no caption",
    }


def test_a_field_of_the_json_may_be_named(tmp_path: Path) -> None:
    record = json.dumps({"caption": "red", "caption_zh": "红"}).encode()
    tar = write_tar(tmp_path / "x.tar", {"1.png": RED, "1.json": record, "1.txt": b"red"})
    assert TarShards([tar])[0].captions == ("red",)
    named = TarShards([tar], fields=["caption_zh"])
    assert named[0].captions == ("红",)
    assert named.fingerprint != TarShards([tar]).fingerprint


def test_a_damaged_picture_is_skipped_by_name(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.png": RED[:50], "1.txt": b"x"})
    with pytest.raises(UnreadablePicture, match=r"^x\.tar/1 is no readable picture"):
        TarShards([tar])[0]


def two_pairs(file: Path) -> Path:
    return write_tar(file, {"1.png": RED, "1.txt": b"1", "2.png": GREEN, "2.txt": b"2"})


@pytest.mark.parametrize(
    ("spoil", "pairs", "reason"),
    [
        (lambda b: b[:2048], 1, "no end mark"),  # between two samples
        (lambda b: b[: 512 * 5 + 40], 1, "cut off in 2.png"),
        (lambda b: b[: 512 * 4] + b"\7" * 512 + b[512 * 5 :], 1, "a broken header, at byte 2048"),
        (lambda b: b[: 512 * 8], 2, "no end mark"),
        (lambda b: b"\x1f\x8b" + b[2:], 0, "compressed: unpack it"),
        (lambda b: b"\7" * 2000, 0, "invalid header"),
        (lambda b: b"", 0, "empty"),
    ],
)
def test_a_damaged_tar_gives_what_is_whole_and_is_named(
    tmp_path: Path, spoil, pairs: int, reason: str
) -> None:
    whole, tar = two_pairs(tmp_path / "a.tar"), two_pairs(tmp_path / "b.tar")
    tar.write_bytes(spoil(tar.read_bytes()))
    data = TarShards([whole, tar])
    assert len(data) == 2 + pairs
    assert list(data.left_out) == ["b.tar"] or pairs == 0
    assert reason in data.left_out["b.tar"]
    assert f"{pairs} pairs before it" in data.left_out["b.tar"]
    assert [data[i].captions[0] for i in range(len(data))] == ["1", "2", "1", "2"][: 2 + pairs]


def test_the_index_is_kept_and_follows_the_content(tmp_path: Path) -> None:
    tar = two_pairs(tmp_path / "a.tar")
    first = open_index(tar)
    kept = index_file(tar).read_bytes()
    assert read_samples(tar, first)[1].key == "2"
    # A kept index is what is read, while size and time are those of the tar.
    index_file(tar).write_bytes(kept.replace(b'["2"', b'["9"'))
    assert read_samples(tar, open_index(tar))[1].key == "9"
    os.utime(tar, ns=(0, 0))
    assert open_index(tar).sha256 == first.sha256
    assert read_samples(tar, open_index(tar))[1].key == "2"
    write_tar(tar, {"1.png": GREEN, "1.txt": b"1", "2.png": RED, "2.txt": b"2"})
    assert open_index(tar).sha256 != first.sha256


@pytest.mark.parametrize("spoil", [lambda b: b[:-30], lambda b: b"{}", lambda b: b"\xff" + b])
def test_a_damaged_index_is_made_anew(tmp_path: Path, spoil) -> None:
    tar = two_pairs(tmp_path / "a.tar")
    good = open_index(tar)
    index_file(tar).write_bytes(spoil(index_file(tar).read_bytes()))
    again = open_index(tar)
    assert again == good
    assert [sample.key for sample in read_samples(tar, again)] == ["1", "2"]


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_of_a_tar_is_more_than_named(tmp_path_factory, data: st.DataObject) -> None:
    tar = two_pairs(tmp_path_factory.mktemp("damage") / "a.tar")
    content = bytearray(tar.read_bytes()[: data.draw(st.integers(0, 512 * 10))])
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
    tar.write_bytes(content)
    try:
        pairs = TarShards([tar])
    except BridgeError:
        return
    for index in range(len(pairs)):
        with contextlib.suppress(UnusablePair):
            assert pairs[index].captions


def test_patterns(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        two_pairs(tmp_path / f"s-{number:03d}.tar")
    names = [f"s-{number:03d}.tar" for number in (8, 9, 10)]
    for pattern in ("s-{008..010}.tar", "s-*.tar", ""):
        found = tars_at(f"{tmp_path}/{pattern}")
        assert [file.name for file in found] == names
    with pytest.raises(BridgeError, match=r"1 of the 4 tars of .* are missing, such as .*s-011"):
        tars_at(f"{tmp_path}/s-{{008..011}}.tar")
    with pytest.raises(BridgeError, match=r"\{9\.\.8\} .* counts no shards"):
        tars_at(f"{tmp_path}/s-{{9..8}}.tar")
    assert tars_at(f"{tmp_path}/s.parquet") == []


def test_a_sample_that_the_tar_lost_since(tmp_path: Path) -> None:
    tar = two_pairs(tmp_path / "a.tar")
    data = TarShards([tar])
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(UnusablePair, match="the tar ends before"):
        data[1]


def test_long_names_and_links(tmp_path: Path) -> None:
    name = "长" * 90
    tar = tmp_path / "x.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as opened:
        for suffix, content in (("png", RED), ("txt", b"x")):
            info = tarfile.TarInfo(f"{name}.{suffix}")
            info.size = len(content)
            opened.addfile(info, BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    data = TarShards([tar])
    assert [data[i].key for i in range(len(data))] == [f"x.tar/{name}"]


def test_members_may_come_in_any_order(tmp_path: Path) -> None:
    tar = tmp_path / "x.tar"
    members = [
        ("./._a.png", b"\0\5\x16\7"),
        ("./a.png", RED),
        ("b.txt", b"green"),
        ("._a.txt", b"\xff\xfe"),
        ("./a.txt", b"red"),
        ("b.png", GREEN),
        ("./a.png", GREEN),  # another sample of the same name, as of tars put together
        ("./a.txt", b"green too"),
    ]
    with tarfile.open(tar, "w") as opened:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, BytesIO(content))
    data = TarShards([tar])
    assert [data[i].captions[0] for i in range(len(data))] == ["red", "green", "green too"]
    assert data[1].image.getpixel((0, 0)) == data[2].image.getpixel((0, 0))
    assert data.left_out == {}


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"png": [', b'"png": [-'),
        (b'"png"', b'"pngx"'),
        (b'"left_out": {}', b'"left_out": []'),
        (b'"samples": 1', b'"samples": "1"'),
    ],
)
def test_an_index_that_cannot_be_is_not_used(tmp_path: Path, was: bytes, now: bytes) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.png": RED, "a.txt": b"red"})
    open_index(tar)
    whole = index_file(tar).read_bytes()
    assert was in whole
    index_file(tar).write_bytes(whole.replace(was, now))
    assert TarShards([tar])[0].captions == ("red",)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_index_is_made_anew_or_told(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    tar = write_tar(
        tmp_path_factory.mktemp("index") / "x.tar",
        {"a.png": RED, "a.txt": b"red", "b.png": GREEN, "b.txt": b"green"},
    )
    open_index(tar)
    whole = index_file(tar).read_bytes()
    start = draw.draw(st.integers(0, len(whole) - 1))
    end = draw.draw(st.integers(start, min(len(whole), start + 9)))
    junk = draw.draw(st.sampled_from([b"", b"-", b"9", b"[]", b"{}", b'"', b"null", b"x"]))
    index_file(tar).write_bytes(whole[:start] + junk + whole[end:])
    with contextlib.suppress(BridgeError):
        data = TarShards([tar])
        for index in range(min(len(data), 9)):
            with contextlib.suppress(UnusablePair):
                assert data[index].captions
