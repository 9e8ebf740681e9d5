import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.artwork import NoPicture
from bridge_diffusion.worlds.emoji.fluent import FluentIcons

SQUARE = {"body": '<path fill="#00f" d="M0 0h16v16H0z"/>', "width": 16, "height": 16}


def package(folder: Path, icons: object, chars: object) -> Path:
    (folder / "icons.json").write_text(json.dumps(icons), encoding="utf-8")
    (folder / "chars.json").write_text(json.dumps(chars), encoding="utf-8")
    return folder


@pytest.mark.usefixtures("world_extra")
def test_draws_icons_and_aliases(tmp_path: Path) -> None:
    icons = {"icons": {"square": SQUARE}, "aliases": {"box": {"parent": "square"}}}
    fluent = FluentIcons(package(tmp_path, icons, {"1f9e7": "square", "1f96e": "box"}))
    for code in ("1F9E7", "1F96E"):
        picture = fluent.draw(code, 20)
        assert (picture.mode, picture.size) == ("RGBA", (20, 20))
        assert picture.getpixel((1, 18)) == (0, 0, 255, 255)
    with pytest.raises(NoPicture, match="Fluent Emoji has no picture 1F95F"):
        fluent.draw("1F95F", 20)


def test_folder_that_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=r"No such file.*give the unpacked npm package"):
        FluentIcons(tmp_path)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["icons", "aliases", "body", "1f9e7", "a"]), inner)
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(icons=JSON, chars=JSON)
@pytest.mark.usefixtures("world_extra")
def test_any_json_gives_one_clear_error(tmp_path: Path, icons: object, chars: object) -> None:
    with pytest.raises(BridgeError):
        FluentIcons(package(tmp_path, icons, chars)).draw("1F9E7", 16)
