import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.plugins.naming import (
    LoraUse,
    find_by_stem,
    find_plugin,
    parse_lora,
    plugins_in,
    take_tags,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAME = TEXT.filter(lambda t: t.strip() == t != "" and not set(t) & set("<>＜＞:：\0"))
WEIGHT = st.floats(min_value=-100, max_value=100).map(lambda w: float(f"{w:.4f}"))


@given(name=NAME, weight=WEIGHT)
def test_a_name_with_a_weight(name: str, weight: float) -> None:
    assert parse_lora(f"{name}:{weight:f}") == LoraUse(name, weight)


@given(name=NAME)
def test_a_name_alone_has_weight_1(name: str) -> None:
    assert parse_lora(name) == LoraUse(name, 1.0)


def test_a_path_may_hold_a_colon() -> None:
    assert parse_lora(r"C:\loras\x.safetensors") == LoraUse(r"C:\loras\x.safetensors", 1.0)
    assert parse_lora(r"C:\x.safetensors:-.5") == LoraUse(r"C:\x.safetensors", -0.5)


@pytest.mark.parametrize("text", ["", ":0.8", "x:", "x:1e9", "x:nan", "x:inf", "x:1.2.3", "x:101"])
def test_what_is_no_name_or_weight(text: str) -> None:
    with pytest.raises(BridgeError, match="--lora"):
        parse_lora(text)


@given(
    texts=st.lists(TEXT.filter(lambda t: not set(t) & set("<>＜＞\0")), min_size=3, max_size=3),
    uses=st.lists(st.builds(LoraUse, NAME, WEIGHT), min_size=2, max_size=2),
)
def test_tags_are_taken_out_of_a_prompt(texts: list[str], uses: list[LoraUse]) -> None:
    tags = [f"<lora:{use.name}:{use.weight:f}>" for use in uses]
    prompt = texts[0] + tags[0] + texts[1] + tags[1] + texts[2]
    left, taken = take_tags(prompt)
    assert taken == tuple(uses)
    assert left.split() == " ".join(texts).split()
    assert take_tags(left) == (left, ())


@given(text=TEXT)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for read in (take_tags, parse_lora):
        with contextlib.suppress(BridgeError):
            read(text)


def test_tags_as_people_write_them() -> None:
    assert take_tags("a fox, <lora:style> snow") == ("a fox, snow", (LoraUse("style", 1.0),))
    assert take_tags("<LORA: my.style :.7>") == ("", (LoraUse("my.style", 0.7),))
    assert take_tags("＜lora：雪：0.5＞红包") == ("红包", (LoraUse("雪", 0.5),))
    assert take_tags("<lyco:x:1>a<lora:y>")[1] == (LoraUse("x"), LoraUse("y"))
    assert take_tags("a < b, <cat-toy> <b:c>") == ("a < b, <cat-toy> <b:c>", ())


@pytest.mark.parametrize(
    "text", ["<lora:>", "<lora::1>", "<lora:x:>", "<lora:x:much>", "<lora:x:1:2>", "<hypernet:x:1>"]
)
def test_tags_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(BridgeError) as error:
        take_tags(f"a fox {text}")
    assert text in str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "style.safetensors", "sub/my.style.safetensors", "sub/bad.pt", "one/twin.pt",
        "two/twin.bin", "canny/config.json", "canny/diffusion_pytorch_model.safetensors",
        "notes.txt", ".hidden/x.pt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_names_are_looked_up_by_stem(folder: Path) -> None:
    assert find_by_stem("style", folder, "") == folder / "style.safetensors"
    assert find_by_stem("my.style", folder, "") == folder / "sub" / "my.style.safetensors"
    assert find_by_stem("bad.pt", folder, "") == folder / "sub" / "bad.pt"
    assert find_by_stem("canny", folder, "") == folder / "canny"
    path = folder / "two" / "twin.bin"
    assert find_plugin(str(path), None, "--lora") == path
    assert {p.name for p in plugins_in(folder)} == {
        "style.safetensors", "my.style.safetensors", "bad.pt", "twin.pt", "twin.bin", "canny",
    }  # fmt: skip


def test_names_that_lead_nowhere(folder: Path) -> None:
    for name, where, words in (
        ("stlye", folder, "near it: style"),
        ("zzz", folder, "bdm plugins lists"),
        ("twin", folder, "have the name"),
        ("x", None, "--plugins"),
        ("x", folder / "none", "is no folder"),
        ("x" * 300, folder, "no file in"),  # longer than a file's name may be
        ("~nobody-of-that-name/x", folder, "no file in"),
    ):
        with pytest.raises(BridgeError, match=words):
            find_plugin(name, where, "--lora")


def test_shipped_plugins_come_after_the_user_s_own(folder: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "canny"  # its files lie there by name, as those that are shipped
    for name in ("style", "ink"):
        (shipped / f"{name}.pt").touch()
    assert find_plugin("ink", None, "--lora", shipped) == shipped / "ink.pt"
    assert find_plugin("ink", folder, "--lora", shipped) == shipped / "ink.pt"
    assert find_plugin("style", folder, "--lora", shipped) == folder / "style.safetensors"
    assert find_plugin("style", None, "--lora", shipped) == shipped / "style.pt"
    for where in (None, folder):
        with pytest.raises(BridgeError, match="near it: ink"):
            find_plugin("inkk", where, "--lora", shipped)


def test_a_tag_is_never_a_path(folder: Path) -> None:
    for name in (str(folder / "style.safetensors"), "sub/bad.pt", "../x", ".hidden/x"):
        with pytest.raises(BridgeError, match="no file"):
            find_by_stem(name, folder, "")


def test_a_link_back_to_a_folder_is_not_followed(folder: Path) -> None:
    before = plugins_in(folder)
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "round").symlink_to(folder / "round")
    assert plugins_in(folder) == before
    assert find_by_stem("style", folder, "") == folder / "style.safetensors"
    (folder / "linked").symlink_to(folder / "one")
    assert folder / "linked" / "twin.pt" in plugins_in(folder)


def test_an_accent_may_be_stored_apart_from_its_letter(folder: Path) -> None:
    """As macOS stores it."""
    path = folder / "cafe\u0301.safetensors"
    path.touch()
    assert find_by_stem("caf\u00e9", folder, "") == path
    assert find_by_stem("caf\u00e9.safetensors", folder, "") == path
