"""What a bridge refuses: another prediction, what is no prompt, a disk that is full."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import SafetensorError

from bridge_diffusion import Bridge, BridgeError


def test_a_backbone_of_another_prediction_is_never_bridged(
    bridge: Bridge, pipe: StableDiffusionPipeline
) -> None:
    own = pipe.scheduler
    pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(BridgeError, match=r"prediction_type='epsilon', .* 'v_prediction'"):
        bridge.attach(pipe)
    assert not bridge.attached
    assert not pipe.unet._forward_pre_hooks
    pipe.scheduler = own
    bridge.attach(pipe)
    pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(BridgeError, match="v_prediction"):
        bridge.prompt("一只狐狸")


@pytest.mark.parametrize("said", [{"negative": None}, {"english": 5}, {"negative": ["", None]}])
def test_what_is_no_text_is_no_prompt(attached: Bridge, said: dict[str, Any]) -> None:
    with pytest.raises(BridgeError, match="give a text"):
        attached.prompt("一只狐狸", **said)


def test_a_full_disk_leaves_nothing(
    bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As safetensors reports it, which writes in Rust."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(bridge.branch, "save_pretrained", full)
    with pytest.raises(BridgeError, match="disk is full"):
        bridge.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_this_moment_can_be_saved_into(
    bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bridge.save_pretrained(".")
    assert Path("bridge.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
