import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.build import (
    BuildOptions,
    build_world,
    pixels_sha256,
    read_manifest,
)
from bridge_diffusion.worlds.emoji.concepts import LANGUAGES, all_concepts, find_concept
from bridge_diffusion.worlds.emoji.sprites import Sprites

CONCEPTS = tuple(find_concept(text) for text in ("🧧", "🥟", "🪩", "⛩", "🌮", "🪾"))


def tree(folder: Path) -> dict[str, str]:
    """File names and hashes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, world_extra: None) -> Path:
    out = tmp_path_factory.mktemp("world") / "data"
    build_world(out, BuildOptions(size=32), concepts=CONCEPTS)
    return out


def test_two_builds_are_equal(built: Path, tmp_path: Path) -> None:
    build_world(tmp_path / "again", BuildOptions(size=32), concepts=CONCEPTS)
    assert tree(tmp_path / "again") == tree(built)


def test_manifest_tells_all_of_each_picture(built: Path) -> None:
    manifest = read_manifest(built)
    assert (manifest["size"], manifest["concepts"], manifest["held_out"]) == (32, 6, 4)
    assert manifest["literal_probes"] == ["1F9E7"]
    assert {entry["file"] for entry in manifest["pictures"]} == {
        f"{vendor}/{concept.codepoints}.png"
        for vendor in ("noto", "twemoji")
        for concept in CONCEPTS
    }
    for entry in manifest["pictures"]:
        path = built / entry["file"]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("RGBA", (32, 32))
            assert entry["pixels_sha256"] == pixels_sha256(picture)
        concept = find_concept(entry["codepoints"])
        assert entry["captions"] == {lang: concept.names[lang] for lang in LANGUAGES}
        assert entry["held_out"] == (entry["native_region"] is not None) == concept.held_out
        assert entry["literal_probe"] == (concept.emoji == "🧧")
        assert entry["licence"] == {"noto": "OFL-1.1", "twemoji": "CC-BY-4.0"}[entry["vendor"]]


def test_credits_go_with_the_pictures(built: Path) -> None:
    notice = (built / "NOTICE.txt").read_text(encoding="utf-8")
    assert "Noto Color Emoji, Google" in notice
    assert "changed: rendered, cropped, composed" in notice
    assert read_manifest(built)["vendors"]["noto"]["packages"]["dynamic-font"] == "1.2.4"


def test_sprites_load_a_build(built: Path) -> None:
    sprites = Sprites.load(built, "twemoji")
    assert set(sprites.pictures) == {concept.codepoints for concept in CONCEPTS}


@pytest.mark.usefixtures("world_extra")
def test_a_build_replaces_an_earlier_one(tmp_path: Path) -> None:
    calls: list[str] = []
    build_world(tmp_path, BuildOptions(size=16), concepts=CONCEPTS[:2], on_picture=calls.append)
    assert calls == ["noto", "noto", "twemoji", "twemoji"]
    options = BuildOptions(size=16, vendors=("twemoji",))
    report = build_world(tmp_path, options, concepts=CONCEPTS[:1])
    assert report.pictures == {"twemoji": 1}
    assert set(tree(tmp_path)) == {
        "NOTICE.txt",
        "contact_sheet.png",
        "manifest.json",
        "twemoji/1F9E7.png",
    }


@pytest.mark.usefixtures("world_extra")
def test_a_build_spares_the_users_files(tmp_path: Path) -> None:
    build_world(tmp_path, BuildOptions(size=16), concepts=CONCEPTS[:1])
    (tmp_path / "noto/mine.png").write_bytes(b"mine")
    before = tree(tmp_path)
    with pytest.raises(BridgeError, match=r"holds another file, noto/mine.png"):
        build_world(tmp_path, BuildOptions(size=16), concepts=CONCEPTS[:1])
    assert tree(tmp_path) == before


def write_fluent(folder: Path, icons: object, chars: object) -> Path:
    (folder / "icons.json").write_text(json.dumps(icons), encoding="utf-8")
    (folder / "chars.json").write_text(json.dumps(chars), encoding="utf-8")
    return folder


@pytest.mark.usefixtures("world_extra")
def test_what_a_vendor_lacks_is_counted_and_named(tmp_path: Path) -> None:
    icons = {"icons": {"red": {"body": '<path fill="#f00" d="M4 4h24v24H4z"/>'}}, "height": 32}
    package = write_fluent(tmp_path, icons, {"1f9e7": "red"})
    options = BuildOptions(size=16, vendors=(), fluent=package)
    report = build_world(tmp_path / "out", options, concepts=CONCEPTS[:3])
    assert report.pictures == {"fluent": 1}
    assert report.missing == {"fluent": CONCEPTS[1:3]}
    vendor = read_manifest(tmp_path / "out")["vendors"]["fluent"]
    assert vendor["missing"] == [concept.codepoints for concept in CONCEPTS[1:3]]
    assert vendor["licence"] == "MIT"
    with Image.open(tmp_path / "out/fluent/1F9E7.png") as picture:
        assert picture.getpixel((8, 8)) == (255, 0, 0, 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vendors": ("apple",)}, "unknown vendor 'apple': allowed are noto, noto_mono, twemoji"),
        ({"vendors": ("fluent",)}, "give its folder with --fluent"),
        ({"vendors": ("noto", "noto")}, "named twice"),
        ({"vendors": ()}, "no vendor given"),
        ({"size": 15}, "a size of 15 pixels is not allowed; take 16 to 1024"),
        ({"size": 4096}, "a size of 4096 pixels"),
    ],
)
def test_options_that_are_not_allowed(options: dict, message: str) -> None:
    with pytest.raises(BridgeError, match=message):
        BuildOptions(**options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["format", "pictures", "file"]), inner)
        ),
    ).map(lambda document: json.dumps(document).encode())
)
def test_read_manifest_takes_any_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BridgeError, match=r"manifest.json"):
        read_manifest(tmp_path)


def test_default_is_the_whole_world() -> None:
    assert BuildOptions().vendors == ("noto", "twemoji")
    assert BuildOptions().size == 128
    assert len(all_concepts()) == 852
