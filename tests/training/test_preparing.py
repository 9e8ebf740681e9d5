"""Prepared data: encoded once, read as if live, kept to its models."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from colours import COLOURS, colour_folder, colour_tars, png

from bridge_diffusion.data.folder import PairFolder
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training import preparation, preparing
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.examples import LiveExamples
from bridge_diffusion.training.inspecting import write_report
from bridge_diffusion.training.opening import open_data
from bridge_diffusion.training.order import Pick
from bridge_diffusion.training.parts import load_backbone, load_text_encoder
from bridge_diffusion.training.prepared import PreparedExamples, prepared_folder
from bridge_diffusion.training.preparing import prepare_data
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.training.run_folder import occupied

Make = Callable[..., PrepareRequest]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = colour_folder(tmp_path / "pairs")
    (folder / "red.txt").write_text("红色\n一张红色的图\nx", encoding="utf-8")
    (folder / "red.en.txt").write_text("on a beach", encoding="utf-8")
    (folder / "wide.png").write_bytes(png("black", (64, 24)))
    (folder / "wide.txt").write_text("黑色", encoding="utf-8")
    (folder / "damaged.png").write_bytes(b"no picture")
    (folder / "damaged.txt").write_text("坏", encoding="utf-8")
    return folder


@pytest.fixture
def make(reference_weights: Path, chinese_clip_folder: Path, tmp_path: Path, pairs: Path) -> Make:
    def make(*data: object, out: str = "prepared", **changes: object) -> PrepareRequest:
        values = {
            "data": tuple(map(str, data or (pairs,))),
            "out": tmp_path / out,
            "model": str(reference_weights),
            "text_encoder": str(chinese_clip_folder),
            "size": 32,
            "min_caption": 2,
            "device": "cpu",
        }
        return PrepareRequest(**(values | changes))  # type: ignore[arg-type]

    return make


def train_request(prepare: PrepareRequest, **changes: object) -> TrainRequest:
    values = {
        "data": str(prepare.out),
        "out": prepare.out.parent / "run",
        "model": prepare.model,
        "text_encoder": prepare.text_encoder,
        "recipe": "debug",
        "device": "cpu",
        "images": 4,
    }
    return TrainRequest(**(values | changes))  # type: ignore[arg-type]


def test_prepared_is_what_live_gives(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_PAIRS", 2)
    request = make()
    result = prepare_data(request)
    assert result.lines()[0] == "5 of 6 pairs kept, with 6 of 7 captions"
    prepared = PreparedExamples(request.out)
    assert len(prepared) == 5
    pipe = load_backbone(request.model)
    text = load_text_encoder(request.text_encoder, pipe)
    prepared.check(pipe, text)
    dataset = open_data(request.data, 32, 0)
    live = LiveExamples(dataset, pipe, text, size=32)
    keys = [dataset[i].key if i != 1 else "" for i in range(6)]
    for index in range(5):
        note = prepared._note(index)
        pick = Pick(keys.index(note["key"]), 0.0)
        a = live.encoded(live.batch([pick]))
        b = prepared.encoded(prepared.batch([Pick(index, 0.0)]))
        assert torch.allclose(a.latents, b.latents, atol=2e-3)
        assert torch.allclose(a.states[0][a.mask[0]], b.states[0][b.mask[0]], atol=2e-3)
        if a.english is not None:
            assert torch.allclose(a.english, b.english, atol=2e-3)
    dropped = live.encoded(live.batch([Pick(0, None)]))
    empty = prepared.batch([Pick(0, None)])["states"][0]
    assert torch.allclose(dropped.states[0][dropped.mask[0]], empty, atol=2e-3)


def test_training_reads_it_and_refuses_other_models(make: Make, tmp_path: Path) -> None:
    request = make()
    prepare_data(request)
    run = train_branch(train_request(request))
    assert (run.pairs, run.result.finished) == (5, True)
    pipe = load_backbone(request.model)
    text = load_text_encoder(request.text_encoder, pipe)
    prepared = PreparedExamples(request.out)
    for changes, words in (({"size": 64}, "--size 32, not 64"), ({"buckets": True}, "--buckets")):
        with pytest.raises(BridgeError, match=words):
            prepared.check(pipe, text, **changes)
    for part, words in (
        (pipe.vae, "another autoencoder than that of --model"),
        (text.model, "another text encoder than that of --text-encoder"),
        (pipe.text_encoder, "English states of another backbone"),
    ):
        weight = next(part.parameters())
        before = weight.data.clone()
        weight.data += 1
        with pytest.raises(BridgeError, match=words):
            prepared.check(pipe, text)
        weight.data = before
    with pytest.raises(BridgeError, match="prepared data, which stands alone"):
        train_branch(train_request(request, data=(str(request.out), str(request.data[0]))))
    with pytest.raises(BridgeError, match="prepared data, without pictures"):
        open_data([str(request.out)], 32, 0)


def test_an_interrupted_preparation_goes_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_PAIRS", 2)
    whole, parts = make(out="whole"), make(out="parts")
    prepare_data(whole)
    make_shard, made = preparing.make_shard, []

    def stop_after_one(job: preparation.Job, number: int, *rest: Any) -> None:
        if made:
            raise KeyboardInterrupt
        made.append(number)
        make_shard(job, number, *rest)

    monkeypatch.setattr(preparing, "make_shard", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        prepare_data(parts)
    assert not (parts.out / "manifest.json").exists()
    monkeypatch.setattr(preparing, "make_shard", make_shard)
    prepare_data(parts)
    assert manifest(whole) == manifest(parts)
    with pytest.raises(BridgeError, match="was prepared with other filters; give another --out"):
        prepare_data(dataclasses.replace(parts, min_caption=3))
    with pytest.raises(BridgeError, match="not empty and holds no prepared data"):
        prepare_data(make(out="pairs"))


def test_each_picture_is_read_once_and_what_is_known_is_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SHARD_PAIRS", 2)
    request = make(near_duplicates=0)
    opened: list[str] = []
    read, make_shard = Path.read_bytes, preparing.make_shard

    def read_bytes(path: Path) -> bytes:
        opened.extend([path.name] if path.suffix == ".png" else [])
        return read(path)

    def interrupted(job: preparation.Job, number: int, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        make_shard(job, number, *rest)

    def before_the_report(*given: Any) -> None:
        # It shows some of the pictures, and reads these again.
        assert sorted(opened) == sorted(path.name for path in Path(request.data[0]).glob("*.png"))
        write_report(*given)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(preparing, "write_report", before_the_report)
    monkeypatch.setattr(preparing, "make_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_data(request)
    assert len(opened) == 4
    with pytest.raises(BridgeError, match="is not prepared to the end; give the same bdm data"):
        prepared_folder([str(request.out)])
    monkeypatch.setattr(preparing, "make_shard", make_shard)
    result = prepare_data(request)
    opened.clear()
    assert manifest(request)["data"] == PairFolder(Path(request.data[0])).fingerprint
    assert prepare_data(request).lines() == result.lines()
    assert opened == []  # a whole folder is left as it is


def test_near_duplicates_leave_the_shards(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_PAIRS", 2)
    with_others, alone = make(near_duplicates=0), make(out="alone", near_duplicates=0)
    folder = Path(with_others.data[0])
    prepare_data(alone)
    for name, like in (("zx", "red"), ("zy", "green"), ("zz", "wide")):
        shutil.copy(folder / f"{like}.png", folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"像{like}", encoding="utf-8")
    result = prepare_data(with_others)
    # One colour is like another to a perceptual hash, but for black.
    assert len(result.dropped("near-duplicate")) == len(result.verdicts) - 1 - 2
    assert manifest(with_others)["shards"] == manifest(alone)["shards"]
    assert len(PreparedExamples(with_others.out)) == 2
    names = sorted(file.name for file in with_others.out.glob("*.safetensors"))
    assert names == [each["file"] for each in manifest(with_others)["shards"]]


def test_a_damaged_shard_is_named(make: Make) -> None:
    request = make(near_duplicates=0)
    prepare_data(request)
    file = request.out / "00000.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(BridgeError, match=r"00000\.safetensors is damaged or missing"):
        train_branch(train_request(request))
    prepare_data(request)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-40] + bytes(40))
    prepare_data(request)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-40])
    (request.out / "manifest.json").unlink()
    with pytest.raises(BridgeError, match=r"00000\.safetensors is damaged .*; delete it and give"):
        prepare_data(request)
    file.unlink()
    prepare_data(request)
    assert len(PreparedExamples(request.out)) == 2


def test_what_is_damaged_beside_the_shards_is_named(make: Make) -> None:
    request = make()
    prepare_data(request)
    manifest, measures = (request.out / n for n in ("manifest.json", "measures/00000.jsonl"))
    whole = manifest.read_text()
    for damaged in (whole[:100], whole.replace('"shards"', '"shardz"')):
        manifest.write_text(damaged)
        for run in (lambda: prepare_data(request), lambda: PreparedExamples(request.out)):
            with pytest.raises(BridgeError, match=r"manifest\.json is damaged .* delete it and"):
                run()
    manifest.unlink()
    measures.write_text("[1]\n")
    with pytest.raises(BridgeError, match=r"00000\.jsonl is damaged .*; delete it and give"):
        prepare_data(request)
    measures.unlink()
    prepare_data(request)
    assert manifest.read_text() == whole


def test_two_commands_do_not_write_into_one_folder(make: Make) -> None:
    request = make()
    prepare_data(request)
    with occupied(request.out), pytest.raises(BridgeError, match="another process writes into"):
        prepare_data(request)
    prepare_data(request)


def test_a_manifest_of_other_software_is_no_prepared_data(make: Make, pairs: Path) -> None:
    for text in ('{"name": "photos", "format": 1, "shards": []}', "[]", "no JSON"):
        (pairs / "manifest.json").write_text(text, encoding="utf-8")
        assert prepared_folder([str(pairs)]) is None
        assert len(open_data([str(pairs)], 32, 0)) == 6


def test_aspects_are_kept_in_batches_of_one_shape(make: Make) -> None:
    request = make(buckets=True)
    prepare_data(request)
    prepared = PreparedExamples(request.out)
    assert len(set(prepared.shapes)) == 2
    run = train_branch(train_request(request, buckets=True))
    assert run.result.finished
    cached = train_request(
        request, data=request.data, buckets=True, size=32, out=request.out.parent / "cached"
    )
    assert train_branch(cached).result.finished


def test_a_mixture_keeps_its_weights(make: Make, tmp_path: Path, pairs: Path) -> None:
    tars = colour_tars(tmp_path / "tars")
    request = make(f"{pairs},weight=3", f"{tars},weight=1")
    prepare_data(request)
    prepared = PreparedExamples(request.out)
    assert prepared.weights == [3.0, 1.0]
    assert prepared.sources.tolist() == [0] * 5 + [1] * len(COLOURS)
    assert train_branch(train_request(request)).result.finished


def manifest(request: PrepareRequest) -> dict:
    return json.loads((request.out / "manifest.json").read_text(encoding="utf-8"))
