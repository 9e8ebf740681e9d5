"""Names of what is shipped, and of what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import locate_model, locate_text_encoder, native_size
from bridge_diffusion.identify import Identity


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


def save_model(folder: Path, unet: dict[str, Any], vae: dict[str, Any]) -> Identity:
    """As much of a pipeline's folder as tells what it is."""
    for part, config in (("unet", unet), ("vae", vae)):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    identity = locate_model(str(folder))
    assert identity is not None
    return identity


@pytest.mark.parametrize(
    ("sample", "vae", "size"),
    [
        (64, {"block_out_channels": [128, 256, 512, 512]}, (512, 512)),
        (128, {"block_out_channels": [128, 256, 512, 512]}, (1024, 1024)),
        (16, {"block_out_channels": [48, 48, 48]}, (64, 64)),
        ([48, 64], {"block_out_channels": [32, 32]}, (128, 96)),  # height comes first
        (64, {"decoder_block_out_channels": [64, 64, 64, 64]}, (512, 512)),
    ],
)
def test_a_model_tells_the_size_that_it_was_trained_at(
    tmp_path: Path, sample: Any, vae: dict[str, Any], size: tuple[int, int]
) -> None:
    assert native_size(save_model(tmp_path, {"sample_size": sample}, vae)) == size


def test_a_single_file_has_the_size_of_its_family(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    identity = locate_model(str(tmp_path / "model.ckpt"))
    assert identity is not None
    assert native_size(identity) == (512, 512)


@pytest.mark.parametrize("sample", [None, "64", [64]])
def test_a_model_that_does_not_tell_is_refused(tmp_path: Path, sample: Any) -> None:
    model = save_model(tmp_path, {"sample_size": sample}, {"block_out_channels": [32, 32]})
    with pytest.raises(BridgeError, match="does not say at what size"):
        native_size(model)
