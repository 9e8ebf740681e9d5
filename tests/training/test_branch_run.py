"""From a request to a bridge: the debug recipe on a folder of pictures, with a golden loss."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.request import TrainRequest

# Mean of the last 16 images' losses. A change that is not meant to change training keeps it.
GOLDEN_LOSS = 0.7352083325386047


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for i, (caption, colour) in enumerate((("红色", "red"), ("绿色", "green"), ("(蓝色)", "blue"))):
        Image.linear_gradient("L").convert("RGB").resize((50 + i, 40)).save(folder / f"{i}.png")
        Image.new("RGB", (50 + i, 40), colour).save(folder / f"{colour}.png")
        for name in (str(i), colour):
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    (folder / "damaged.png").write_bytes(b"no picture")
    (folder / "damaged.txt").write_text("坏", encoding="utf-8")
    return folder


@pytest.fixture
def request_for(
    reference_weights: Path, chinese_clip_folder: Path, pairs: Path, tmp_path: Path
) -> TrainRequest:
    return TrainRequest(
        data=str(pairs),
        out=tmp_path / "runs" / "zh",
        model=str(reference_weights),
        text_encoder=str(chinese_clip_folder),
        recipe="debug",
        size=32,
        device="cpu",
        language="zh, yue",
        licence="CC0-1.0",
    )


def test_the_debug_recipe_has_its_golden_loss(request_for: TrainRequest) -> None:
    run = train_branch(request_for)
    assert run.result.finished
    assert run.result.loss == pytest.approx(GOLDEN_LOSS, rel=1e-4)
    assert run.pairs == 6
    assert run.skipped == {"damaged.png": "of no known format, or damaged"}
    bridge = Bridge.from_pretrained(run.result.export)
    assert bridge.config.languages == ("zh", "yue")
    assert bridge.config.licence == "CC0-1.0"
    assert (request_for.out / "samples" / "00000032.png").is_file()
    report = (request_for.out / "report.html").read_text(encoding="utf-8")
    assert "64 of 64 (100%)" in report
    assert "damaged.png" in report
    assert "红色" in report


def test_captions_that_the_text_encoder_cannot_read_are_told(
    request_for: TrainRequest, pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(request_for, images=4)
    for name in ("1", "green"):
        (pairs / f"{name}.txt").write_text("红色", encoding="utf-8")
    train_branch(short)
    assert "does not know" not in caplog.text
    (pairs / "red.txt").write_text("samaki ಠ", encoding="utf-8")
    train_branch(replace(short, out=short.out.with_name("other")))
    assert "1 of 3 captions have letters or words" in caplog.text
    assert "'samaki ಠ'" in caplog.text


def test_live_encoding_trains_the_same_way(request_for: TrainRequest) -> None:
    run = train_branch(replace(request_for, cached=False, images=16))
    assert run.result.finished
    assert run.pairs == 7  # what is damaged is found when it is read
    assert not request_for.cache_folder.exists()


def test_a_bridge_is_trained_further(request_for: TrainRequest, tmp_path: Path) -> None:
    first = train_branch(replace(request_for, images=8))
    further = replace(
        request_for,
        text_encoder=None,
        bridge=str(first.result.export),
        out=tmp_path / "runs" / "further",
        images=8,
        language="",
        licence="",
    )
    second = train_branch(further)
    before = Bridge.from_pretrained(first.result.export)
    after = Bridge.from_pretrained(second.result.export)
    assert after.config.languages == before.config.languages
    assert after.config.licence == before.config.licence == "CC0-1.0"
    seen = before.config.training_data
    assert seen == "7 captioned pictures of pairs"
    assert after.config.training_data == f"{seen}; then {seen}"
    zero = "controlnet_mid_block.weight"
    assert before.branch.state_dict()[zero].abs().max() > 0
    change = after.branch.state_dict()[zero] - before.branch.state_dict()[zero]
    assert 0 < change.abs().max() < 2 * before.branch.state_dict()[zero].abs().max()


def test_a_bridge_is_the_start_for_another_language(
    request_for: TrainRequest, tmp_path: Path
) -> None:
    first = train_branch(replace(request_for, images=4, sample_prompt=("红",)))
    other = replace(
        request_for,
        bridge=str(first.result.export),
        out=tmp_path / "runs" / "other",
        images=4,
        language="ja",
        licence="",
        lora_rank=2,
        freeze="conv_in, down_blocks.0.resnets",
        english_dropout=0.5,
        noise_offset=0.1,
        log="none",
    )
    second = train_branch(other)
    before, after = (Bridge.from_pretrained(run.result.export) for run in (first, second))
    assert after.config.languages == ("ja",)
    assert after.config.licence == "CC0-1.0"
    assert after.config.training_data.startswith(before.config.training_data + "; then")
    name = "conv_in.weight"
    assert torch.equal(after.branch.state_dict()[name], before.branch.state_dict()[name])
    name = "controlnet_mid_block.weight"
    assert not torch.equal(after.branch.state_dict()[name], before.branch.state_dict()[name])
    assert not (other.out / "tensorboard").exists()
    settings = json.loads((other.out / "config.json").read_text(encoding="utf-8"))["task"]
    assert settings["lora_rank"] == 2
    assert settings["freeze"] == ["conv_in", "down_blocks.0.resnets"]
    with pytest.raises(BridgeError, match="was started with lora_rank = 2, not None"):
        train_branch(replace(other, lora_rank=None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 31}, "--size is 31, it must be a multiple of 4"),
        ({"data": "nowhere"}, "no data at 'nowhere'"),
        ({"model": "nowhere"}, "nothing at nowhere"),
        ({"images": 0}, "--images is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"probe": 8}, "--probe scores scenes of the emoji world"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    request_for: TrainRequest, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(BridgeError, match=words):
        train_branch(replace(request_for, **changes))  # type: ignore[arg-type]
    assert not request_for.out.exists()


def test_a_request_that_cannot_be_meant_is_refused(request_for: TrainRequest) -> None:
    with pytest.raises(BridgeError, match="either --text-encoder"):
        replace(request_for, text_encoder=None)
    with pytest.raises(BridgeError, match="--schedule is 'step'; choose constant, cosine, linear"):
        replace(request_for, schedule="step")
    with pytest.raises(BridgeError, match="--log has 'mlflow'"):
        replace(request_for, log="wandb,mlflow")
    with pytest.raises(BridgeError, match="--english-dropout is 2, it must be from 0 to 1"):
        replace(request_for, english_dropout=2.0)
    with pytest.raises(BridgeError, match="--lora-rank is 0, it must be 1 or more"):
        replace(request_for, lora_rank=0)
    with pytest.raises(BridgeError, match="--min-snr-gamma is 0, it must be above 0"):
        replace(request_for, min_snr_gamma=0)
    with pytest.raises(BridgeError, match="no recipe 'fast'"):
        replace(request_for, recipe="fast")
    with pytest.raises(BridgeError, match="--precision is 'fp8'"):
        replace(request_for, precision="fp8")


def test_a_run_with_other_data_is_refused_before_it_is_encoded(
    request_for: TrainRequest, pairs: Path
) -> None:
    train_branch(replace(request_for, images=4))
    stores = sorted(request_for.cache_folder.iterdir())
    (pairs / "red.txt").write_text("大红", encoding="utf-8")
    with pytest.raises(BridgeError, match="was started with data = "):
        train_branch(request_for)
    assert sorted(request_for.cache_folder.iterdir()) == stores
