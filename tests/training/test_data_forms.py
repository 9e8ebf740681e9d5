"""`bdm train --data` on every form of data, and on a mixture: the same bits again when resumed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from colours import COLOURS, colour_folder, colour_table, colour_tars

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.request import TrainRequest

Train = Callable[..., TrainRequest]


@pytest.fixture
def request_for(reference_weights: Path, chinese_clip_folder: Path, tmp_path: Path) -> Train:
    def make(*data: object, out: str = "run", images: int = 8) -> TrainRequest:
        return TrainRequest(
            data=tuple(str(each) for each in data),
            out=tmp_path / "runs" / out,
            model=str(reference_weights),
            text_encoder=str(chinese_clip_folder),
            recipe="debug",
            size=32,
            device="cpu",
            images=images,
        )

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Bridge.from_pretrained(folder).branch.state_dict()


@pytest.fixture(params=["folder", "tars", "saved", "rows.parquet"])
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / request.param
    if request.param == "folder":
        return colour_folder(place)
    if request.param == "tars":
        return colour_tars(place)
    pytest.importorskip("datasets")
    if request.param == "saved":
        colour_table().save_to_disk(str(place))
    else:
        colour_table().to_parquet(str(place))
    return place


def test_every_form_is_trained_on(form: Path, request_for: Train) -> None:
    run = train_branch(request_for(form))
    assert run.result.finished
    assert run.pairs == len(COLOURS)
    assert run.skipped == {}


def test_what_is_whole_of_a_damaged_tar_is_trained_on(
    tmp_path: Path, request_for: Train, caplog: pytest.LogCaptureFixture
) -> None:
    tars = colour_tars(tmp_path / "tars")
    damaged = tars / "00001.tar"
    data = damaged.read_bytes()
    damaged.write_bytes(data[: data.index(b"yellow.png")])  # the second of its pairs
    run = train_branch(request_for(tars))
    assert run.result.finished
    assert run.pairs == len(COLOURS) - 1
    assert "1 tars of" in caplog.text
    assert "are damaged and read in part, such as 00001.tar" in caplog.text


def test_a_mixture_is_drawn_by_weight_and_resumed_exactly(
    tmp_path: Path, request_for: Train
) -> None:
    half = dict(list(COLOURS.items())[:1])
    data = (
        f"{colour_folder(tmp_path / 'few', half)},weight=3",
        f"{colour_tars(tmp_path / 'many')},weight=1",
    )
    whole = train_branch(request_for(*data, out="whole", images=16))
    train_branch(request_for(*data, out="parts"))
    with pytest.raises(BridgeError, match="was started with data = "):
        train_branch(request_for(*(spec.replace("=3", "=2") for spec in data), out="parts"))
    parts = train_branch(request_for(*data, out="parts", images=16))
    assert whole.pairs == 5
    again = weights(parts.result.export)
    for name, value in weights(whole.result.export).items():
        assert torch.equal(value, again[name])


def test_some_weights_and_none_is_refused(tmp_path: Path, request_for: Train) -> None:
    one, two = (colour_folder(tmp_path / name) for name in ("one", "two"))
    with pytest.raises(BridgeError, match=r"two has no weight and others have one"):
        train_branch(request_for(f"{one},weight=1", two))
