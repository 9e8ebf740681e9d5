"""What travels to another machine."""

import pickle
from pathlib import Path

import pytest

from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.server.engine import Task
from bridge_diffusion.server.parcels import pack, unpack


def task(folder: Path, id: str, **pictures: Path) -> dict:
    request = GenerationRequest(prompt="红包", seed=1, **pictures)
    file = str(folder / "gallery" / f"{id}.png")
    return {"id": id, "request": request.to_json(), "fields": {"prompt": "红包"}, "file": file}


def test_pictures_travel_as_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    for name in ("first", "mask"):
        (here / name).write_bytes(name.encode())
    tasks = [
        task(here, "a", init_image=here / "first", mask=here / "mask"),
        task(here, "b", init_image=here / "first"),
    ]
    parcel = pickle.loads(pickle.dumps(pack(tasks)))  # as Ray sends it
    assert str(tmp_path) not in repr(parcel)
    assert sorted(parcel.pictures.values()) == [b"first", b"mask"]  # each once
    for name in ("first", "mask"):
        (here / name).unlink()
    first, second = (Task.from_json(values) for values in unpack(parcel, there))
    assert (first.id, first.fields) == ("a", {"prompt": "红包"})
    assert first.request.init_image is not None
    assert first.request.mask is not None
    assert first.request.init_image.read_bytes() == b"first"
    assert first.request.mask.read_bytes() == b"mask"
    assert second.request.init_image == first.request.init_image
    assert second.request.mask is None
    assert {first.file.parent, second.file.parent, first.request.mask.parent} == {there}
    assert first.file != second.file


def test_several_controls_keep_their_order(tmp_path: Path) -> None:
    for name in ("edges", "pose"):
        (tmp_path / name).write_bytes(name.encode())
    sent = task(tmp_path, "a")
    sent["request"]["control"] = [str(tmp_path / name) for name in ("pose", "edges", "pose")]
    there = tmp_path / "there"
    there.mkdir()
    (unpacked,) = unpack(pack([sent]), there)
    read = [Path(path).read_bytes() for path in unpacked["request"]["control"]]
    assert read == [b"pose", b"edges", b"pose"]


def test_a_picture_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pack([task(tmp_path, "a", init_image=tmp_path / "none")])
