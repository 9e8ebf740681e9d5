"""Names of what is shipped, and of what is not."""

from pathlib import Path

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import locate_text_encoder


@pytest.mark.parametrize("language", ["en", "zh", "ar"])
def test_the_worlds_text_encoders_have_names(language: str) -> None:
    folder = Path(locate_text_encoder(f"emoji:{language}"))
    assert (folder / "config.json").is_file()
    assert (language != "en") == ("bridges" in folder.parts)


def test_other_names_stay_as_they_are() -> None:
    assert locate_text_encoder("owner/name") == "owner/name"


def test_a_language_that_is_not_shipped_is_told() -> None:
    with pytest.raises(BridgeError, match="emoji:sw; it has emoji:en, emoji:ar, emoji:zh"):
        locate_text_encoder("emoji:sw")
