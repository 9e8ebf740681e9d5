"""Some languages of a data set, and several data sets as one."""

import json
from pathlib import Path

import pytest
from colours import COLOURS, colour_folder, colour_tars, png

from bridge_diffusion.data import PairFolder
from bridge_diffusion.data.pairs import (
    FirstPairs,
    PairDataset,
    UnusablePair,
    fingerprint,
    glance,
)
from bridge_diffusion.data.shards import TarShards, tars_at
from bridge_diffusion.data.views import InLanguages, MixedPairs, Source


def test_a_pair_without_the_language_is_unusable(tmp_path: Path) -> None:
    for name, said in (("a", {"zh": "红", "en": "red"}), ("b", {"en": "red"})):
        (tmp_path / f"{name}.png").write_bytes(png("red"))
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    whole = PairFolder(tmp_path)
    data = InLanguages(whole, ("zh",))
    assert (data[0].captions, data[0].languages) == (("红",), ("zh",))
    with pytest.raises(UnusablePair, match=r"b\.png cannot be used \(no caption in zh, only in en"):
        data[1]
    assert data.fingerprint not in (whole.fingerprint, InLanguages(whole, ("en",)).fingerprint)


def test_a_mixture_is_its_parts_one_after_the_other(tmp_path: Path) -> None:
    folder = PairFolder(colour_folder(tmp_path / "folder"))
    colour_tars(tmp_path / "tars")
    (tmp_path / "tars" / "00000.tar").write_bytes(b"")
    tars = TarShards(tars_at(str(tmp_path / "tars")))
    mixed = MixedPairs([Source("f", folder, 1.0), Source("t", tars, 2.0)])
    assert len(mixed) == 6
    assert [mixed.source_of(i) for i in range(6)] == [0] * 4 + [1] * 2
    assert mixed[4].key == "t: 00001.tar/blue"
    assert {mixed[i].captions[0] for i in range(4)} == set(COLOURS)
    assert list(mixed.left_out) == ["t: 00000.tar"]
    assert mixed.weights == [1.0, 2.0]
    (tmp_path / "folder" / "blue.png").write_bytes(b"")
    with pytest.raises(UnusablePair, match=r"f: blue\.png cannot be used \(of no known format"):
        mixed[0]
    other = MixedPairs([Source("t", tars, None), Source("f", folder, None)])
    assert other.weights is None
    assert mixed.fingerprint != other.fingerprint


def test_a_fingerprint_is_made_of_hashes_that_are_known(tmp_path: Path) -> None:
    folder = PairFolder(colour_folder(tmp_path / "pairs"))
    (tmp_path / "pairs" / "red.png").write_bytes(b"no picture")
    views = [folder, FirstPairs(folder, len(folder)), InLanguages(folder, ("zh",))]
    views.append(MixedPairs([Source("a", folder, None), Source("b", views[1], None)]))
    wanted = [fingerprint(view) for view in views]
    glances = [glance(view) for view in views]
    known = [[content_of(view, index) for index in range(len(view))] for view in views]
    for file in (tmp_path / "pairs").glob("*.png"):
        file.write_bytes(b"")  # and is not read again
    again = [fingerprint(view, each) for view, each in zip(views, known, strict=True)]
    assert again == wanted
    assert all(a != b for a, b in zip(glances, map(glance, views), strict=True))


def content_of(dataset: PairDataset, index: int) -> str:
    try:
        return dataset[index].content
    except UnusablePair as unusable:
        return unusable.content
