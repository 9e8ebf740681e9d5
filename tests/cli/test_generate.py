"""`bdm generate`, from the command line to the pixels of the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import ExifTags, Image

from bridge_diffusion.generation.request import SchedulerName
from bridge_diffusion.images.infotext import parse_infotext
from bridge_diffusion.images.metadata import ImageMetadata, encode_image, read_metadata


@pytest.fixture
def draw(bdm: Callable, model: Path, bridge: Path, tmp_path: Path) -> Callable:
    """Run `bdm generate` with the tiny model and bridge, into `out` of the test's folder."""

    def run(*arguments: object, bridge: object = bridge) -> object:
        which = ("--model", model, "--bridge", bridge)
        return bdm("generate", *which, "--steps", 2, "--out", tmp_path / "out", *arguments)

    return run


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def only_picture(outcome: object) -> Path:
    assert outcome.code == 0, outcome.err
    (line,) = outcome.lines
    return Path(line)


def test_a_picture_is_drawn_and_says_how(draw: Callable) -> None:
    path = only_picture(draw("红包", "--english", "blue, red", "--seed", 7, "--scale", 0.5))
    assert path.name == "00001-红包.png"
    assert pixels(path).shape == (16, 16, 3)
    info = parse_infotext(read_metadata(path).infotext)
    assert info.prompt == "blue, red"
    assert info.parameters["Native prompt"] == "红包"
    assert info.parameters["Seed"] == "7"
    assert info.parameters["Bridge scale"] == "0.5"
    assert len(info.parameters["Bridge hash"]) == 10


def test_the_bridge_acts(draw: Callable) -> None:
    drawn = [only_picture(draw(*words, "--seed", 1)) for words in (
        ["红包"], ["月饼"], ["红包", "--scale", 0], ["红包", "--negative", "雪"],
    )]  # fmt: skip
    images = [pixels(path).tobytes() for path in drawn]
    assert len(set(images)) == 4


@pytest.mark.parametrize(
    "options",
    [
        ("--english", "a fox", "--negative", "雪", "--negative-english", "snow"),
        ("--scheduler", "euler-a", "--guidance", 1.0),
        ("--start", 0.5, "--size", "24x16"),
    ],
)
def test_a_picture_is_drawn_again_bit_for_bit_from_its_file(
    draw: Callable, bdm: Callable, tmp_path: Path, options: tuple
) -> None:
    outcome = draw("红包", "--n", 2, *options)
    _, second = outcome.lines
    again = only_picture(bdm("generate", "--from", second, "--out", tmp_path / "again"))
    np.testing.assert_array_equal(pixels(again), pixels(second))
    assert read_metadata(again) == read_metadata(Path(second))


def test_options_change_what_is_drawn_from_a_file(draw: Callable, bdm: Callable) -> None:
    first = only_picture(draw("红包", "--seed", 3))
    again = only_picture(bdm("generate", "--from", first, "--seed", 4, "--out", first.parent))
    request = read_metadata(again).record["request"]
    assert (request["prompt"], request["seed"]) == ("红包", 4)
    assert not np.array_equal(pixels(again), pixels(first))


def test_other_weights_do_not_draw_a_file_again(draw: Callable, bdm: Callable) -> None:
    path = only_picture(draw("红包"))
    record = dict(read_metadata(path).record)
    record["hashes"] = record["hashes"] | {"bridge": "0123456789"}
    image = Image.fromarray(pixels(path))
    path.write_bytes(encode_image(image, ".png", ImageMetadata(infotext="", record=record)))
    outcome = bdm("generate", "--from", path)
    assert outcome.code == 2
    assert "0123456789" in outcome.err
    assert "give --bridge" in outcome.err


def test_another_initial_picture_does_not_draw_a_file_again(
    draw: Callable, bdm: Callable, tmp_path: Path
) -> None:
    start = tmp_path / "start.png"
    Image.new("RGB", (16, 16), "red").save(start)
    path = only_picture(draw("红包", "--init-image", start))
    Image.new("RGB", (16, 16), "blue").save(start)
    outcome = bdm("generate", "--from", path)
    assert outcome.code == 2
    assert "give --init-image" in outcome.err
    only_picture(bdm("generate", "--from", path, "--init-image", start, "--out", tmp_path))


def test_each_picture_has_its_own_seed(draw: Callable) -> None:
    several = draw("红包", "--n", 3, "--seed", 5)
    alone = only_picture(draw("红包", "--seed", 7))
    assert [Path(line).name[:5] for line in several.lines] == ["00001", "00002", "00003"]
    np.testing.assert_array_equal(pixels(several.lines[2]), pixels(alone))


def test_without_a_bridge_the_backbone_reads_the_prompt(draw: Callable) -> None:
    path = only_picture(draw("a fox", bridge="none"))
    info = parse_infotext(read_metadata(path).infotext)
    assert info.prompt == "a fox"
    assert "Native prompt" not in info.parameters


def test_json_is_one_line_a_picture(draw: Callable) -> None:
    outcome = draw("红包", "--n", 2, "--seed", 5, "--json")
    first, second = (json.loads(line) for line in outcome.lines)
    assert (first["seed"], second["seed"]) == (5, 6)
    assert Path(second["path"]).is_file()


def test_one_named_file(draw: Callable, bdm: Callable, tmp_path: Path) -> None:
    first = only_picture(draw("红包"))
    for suffix in (".png", ".jpg", ".webp"):
        path = tmp_path / f"sub/named{suffix}"
        outcome = bdm("generate", "--from", first, "--out", path)
        assert only_picture(outcome) == path
        assert read_metadata(path) == read_metadata(first)
    outcome = bdm("generate", "--from", first, "--out", path, "--n", 2)
    assert (outcome.code, outcome.lines) == (2, [])


def test_a_picture_to_start_from_and_a_mask(draw: Callable, bdm: Callable, tmp_path: Path) -> None:
    start = only_picture(draw("月饼", "--seed", 1))
    mask = tmp_path / "mask.png"
    left_half = np.zeros((16, 16), np.uint8)
    left_half[:, :8] = 255
    Image.fromarray(left_half).save(mask)
    changed = draw("红包", "--init-image", start, "--strength", 0.5, "--seed", 1)
    masked = draw("红包", "--init-image", start, "--mask", mask, "--seed", 1, "--strength", 1.0)
    for outcome in (changed, masked):
        path = only_picture(outcome)
        assert not np.array_equal(pixels(path), pixels(start))
        again = only_picture(bdm("generate", "--from", path, "--out", tmp_path / "again"))
        np.testing.assert_array_equal(pixels(again), pixels(path))


def test_every_scheduler_draws_its_own_way(draw: Callable) -> None:
    names = get_args(SchedulerName)
    drawn = [only_picture(draw("红包", "--seed", 1, "--steps", 5, "--scheduler", n)) for n in names]
    assert len({pixels(path).tobytes() for path in drawn}) == len(names)


def test_what_a_bridge_expects_of_the_scheduler_is_set(
    draw: Callable, bridge: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(bridge, tmp_path / "bridge")
    config = json.loads((other / "bridge.json").read_text())
    config["scheduler"] = {"final_sigmas_type": "sigma_min"}
    (other / "bridge.json").write_text(json.dumps(config))
    drawn = [only_picture(draw("红包", "--seed", 1, bridge=each)) for each in (bridge, other)]
    assert not np.array_equal(*map(pixels, drawn))


def test_a_folder_with_half_precision_weights_alone(
    draw: Callable, bdm: Callable, model: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    StableDiffusionPipeline.from_pretrained(model).save_pretrained(half, variant="fp16")
    arguments = ("--model", half, "--bridge", "none", "--steps", 2, "--seed", 1)
    path = only_picture(bdm("generate", "a fox", *arguments, "--out", tmp_path / "out"))
    whole = only_picture(draw("a fox", "--seed", 1, bridge="none"))
    np.testing.assert_array_equal(pixels(path), pixels(whole))


def test_bf16(draw: Callable) -> None:
    path = only_picture(draw("红包", "--dtype", "bf16"))
    assert read_metadata(path).record["request"]["dtype"] == "bf16"


def test_an_initial_picture_is_seen_as_people_see_it(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path
) -> None:
    """Turned as its EXIF says, and white where it is transparent."""
    turned, clear, white = tmp_path / "turned.png", tmp_path / "clear.png", tmp_path / "white.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (16, 32)).save(turned, exif=exif)
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(clear)
    Image.new("RGB", (16, 16), "white").save(white)
    drawn = {}
    for path in (turned, clear, white):
        out = tmp_path / f"drawn-{path.name}"
        outcome = bdm(
            "generate", "红包", "--model", model, "--bridge", bridge, "--seed", 1, "--steps", 2,
            "--strength", 0.5, "--init-image", path, "--out", out,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        with Image.open(out) as image:
            drawn[path] = image.copy()
    assert drawn[turned].size == (32, 16)
    assert np.array_equal(drawn[clear], drawn[white])


def test_a_cut_prompt_is_told_in_one_line_and_once(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path
) -> None:
    outcome = bdm(
        "generate", "红" * 400, "--model", model, "--bridge", bridge, "--steps", 1, "--n", 2,
        "--out", tmp_path,
    )  # fmt: skip
    assert (outcome.code, len(outcome.lines)) == (0, 2)
    assert outcome.err.startswith("bdm: warning: the prompt has 400 tokens")
    assert outcome.err.count("\n") == 1


def test_a_picture_whose_initial_picture_is_gone(
    bdm: Callable, model: Path, bridge: Path, tmp_path: Path
) -> None:
    initial, out = tmp_path / "initial.png", tmp_path / "out.png"
    Image.new("RGB", (16, 16)).save(initial)
    bdm(
        "generate", "红包", "--model", model, "--bridge", bridge, "--steps", 2,
        "--init-image", initial, "--out", out,
    )  # fmt: skip
    initial.unlink()
    outcome = bdm("generate", "--from", out, "--out", tmp_path / "again.png")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"no picture at {initial}" in outcome.err
