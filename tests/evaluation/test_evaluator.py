"""The evaluator's files, and the shipped one on real drawings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.evaluator import evaluator_pixels, load_evaluator
from bridge_diffusion.evaluation.plan import scored_singles
from bridge_diffusion.evaluation.renderings import Damage, Renderings
from bridge_diffusion.evaluation.retrieval import ranks, top_k
from bridge_diffusion.worlds.emoji.concepts import all_concepts, literal_probes, small_world


@pytest.fixture(scope="module")
def shipped():
    return load_evaluator()


def test_the_shipped_one_knows_all_concepts(shipped):
    assert shipped.model.config.concepts == tuple(c.codepoints for c in all_concepts())
    assert not shipped.model.training


def test_the_shipped_one_is_right_on_scored_drawings(shipped, drawings):
    scenes = [scored_singles(c)[0] for c in (*literal_probes(), *small_world("zh")[::3])]
    pictures = [scene.render(drawings, 64) for scene in scenes]
    right = torch.tensor([shipped.model.row[scene.concepts[0].codepoints] for scene in scenes])
    rate = top_k(ranks(shipped.model.scores(pictures), right), 1)
    assert rate.share >= 0.9
    assert shipped.accuracy["noto"]["clean"]["top1"]["share"] >= 0.9


def test_the_shipped_one_says_nothing_of_empty_pictures(shipped):
    """A background without an object must not be taken for a concept with confidence."""
    blank = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    assert shipped.model.scores(blank).softmax(dim=1).max() < 0.5


def test_saving_and_loading_keeps_the_scores(untrained, concepts, tmp_path):
    loaded = untrained(concepts)
    picture = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))]
    loaded.model.save(tmp_path, {"accuracy": {"noto": 1}})
    again = load_evaluator(tmp_path)
    assert again.accuracy == {"noto": 1}
    assert again.model.config == loaded.model.config
    expected = loaded.model.scores(picture)
    torch.testing.assert_close(again.model.scores(picture), expected, rtol=0.01, atol=0.05)


def test_no_pictures_no_scores(untrained, concepts):
    assert untrained(concepts).model.scores([]).shape == (0, 4)


def test_pixels_of_any_picture():
    pixels = evaluator_pixels(
        [Image.new("L", (100, 30), 255), Image.new("RGBA", (64, 64), (0, 0, 0, 9))]
    )
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels[0].unique().tolist() == [1.0]
    assert pixels[1].unique().tolist() == [-1.0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "not readable"),
        (lambda folder: _edit(folder, format_version=2), "format 2"),
        (lambda folder: _edit(folder, feature_width=9), "do not fit"),
        (lambda folder: _edit(folder, concepts=["1F9E7"]), "do not fit"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(untrained, concepts, tmp_path, damage, message):
    untrained(concepts).model.save(tmp_path, {})
    damage(tmp_path)
    with pytest.raises(BridgeError, match=message) as caught:
        load_evaluator(tmp_path)
    assert "\n" not in str(caught.value)


def _edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_renderings_are_functions_of_the_generator(drawings, concepts):
    renderings = Renderings([drawings], [concept.codepoints for concept in concepts])

    def batch(seed):
        return renderings.batch(8, torch.Generator().manual_seed(seed), Damage())

    pixels, labels = batch(1)
    again, same = batch(1)
    assert torch.equal(pixels, again)
    assert torch.equal(labels, same)
    assert not torch.equal(pixels, batch(2)[0])
    assert pixels.shape == (8, 3, 64, 64)
    assert pixels.min() >= -1
    assert pixels.max() <= 1


def test_a_rendering_shows_its_drawing_on_a_background(drawings, concepts):
    """Hardly damaged, a rendering is what the evaluator knows by the label's name."""
    renderings = Renderings([drawings], [concept.codepoints for concept in concepts])
    mild = Damage(strength=0, softest=63, blur=0.31, jpeg_quality=89)
    pixels, labels = renderings.batch(64, torch.Generator().manual_seed(0), mild)
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
    model = load_evaluator().model
    rows = torch.tensor([model.row[c.codepoints] for c in concepts])
    with torch.no_grad():
        assert top_k(ranks(model(pixels), rows[labels]), 1).share > 0.9
    corners = pixels[:, :, ::63, ::63].flatten(1)
    assert corners.std(dim=0).mean() > 0.3  # backgrounds differ from picture to picture
