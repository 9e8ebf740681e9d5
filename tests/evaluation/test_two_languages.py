"""Two languages in one image: what is asked, what counts as right, and the numbers of it."""

import dataclasses
import json
import re

import pytest
from PIL import Image, ImageDraw

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.evaluator import load_evaluator
from bridge_diffusion.evaluation.plan import WorldOptions
from bridge_diffusion.evaluation.two_languages import (
    KINDS,
    SCALES,
    Claim,
    TwoLanguages,
    fulfilled,
    place_of,
    prompt_pairs,
    shown_positions,
)
from bridge_diffusion.evaluation.two_languages_report import (
    rate_of,
    ratio_of,
    write_two_languages,
)
from bridge_diffusion.evaluation.world import judge
from bridge_diffusion.worlds.emoji.concepts import small_world

QUICK = WorldOptions(steps=1, batch_size=4)


@pytest.fixture(scope="module")
def pairs():
    return prompt_pairs(small_world("zh"), WorldOptions(), 540)


def test_there_are_enough_scored_pairs_and_no_two_are_alike(pairs):
    assert len(pairs) >= 500
    assert all(pair.case.scene.scored for pair in pairs)
    assert len({(p.case.prompt, p.case.english, p.case.seed) for p in pairs}) == len(pairs)
    for kind in KINDS:
        groups = [pair.case.group for pair in pairs if pair.kind == kind]
        assert len(groups) >= 150
        assert groups.count("native") >= 40


def test_each_half_claims_what_it_says(pairs):
    for pair in pairs:
        scene, case = pair.case.scene, pair.case
        for claim, text, tongue in (
            (pair.native, case.prompt, "zh"),
            (pair.english, case.english, "en"),
        ):
            named = [concept.names[tongue] in text for concept in scene.concepts]
            if claim.concept is None:
                assert not any(named)
            else:
                assert named[claim.concept]
            assert claim.colour == ("背景" in text or "background" in text)
            if claim.place:
                assert claim.place in text
        # Together they say the whole scene, and neither says all of it.
        said = {pair.native.concept, pair.english.concept} - {None}
        assert said == set(range(len(scene.concepts)))
        assert pair.native.colour != pair.english.colour
        assert case.english.isascii()


def test_english_names_no_concept_that_the_english_model_never_saw(pairs):
    for pair in pairs:
        if pair.english.concept is not None:
            assert not pair.case.scene.concepts[pair.english.concept].held_out
    seconds = [pair for pair in pairs if pair.kind == "second"]
    first = [pair.english.concept == 0 for pair in seconds if pair.case.group == "shared"]
    assert 0.3 < sum(first) / len(first) < 0.7


def blob(x: int, y: int) -> Image.Image:
    picture = Image.new("RGB", (64, 64), (40, 90, 200))
    ImageDraw.Draw(picture).ellipse((x - 10, y - 10, x + 10, y + 10), fill=(230, 200, 30))
    return picture


def test_places():
    assert place_of(blob(16, 32)) == "left"
    assert place_of(blob(48, 30)) == "right"
    assert place_of(blob(33, 16)) == "top"
    assert place_of(blob(32, 48)) == "bottom"
    assert place_of(blob(34, 32)) is None
    assert place_of(Image.new("RGB", (64, 64), "red")) is None


def test_the_vendor_s_own_drawings_fulfil_both_halves(pairs, drawings):
    few = pairs[::9]
    pictures = [pair.case.scene.render(drawings, 64) for pair in few]
    outcomes = judge(load_evaluator(), [pair.case for pair in few], pictures)
    for half in ("native", "english"):
        right = [
            fulfilled(getattr(pair, half), outcome, picture)
            for pair, outcome, picture in zip(few, outcomes, pictures, strict=True)
        ]
        assert sum(right) / len(right) > 0.9


def test_everything_that_is_claimed_has_to_be_there(pairs, drawings):
    pair = next(pair for pair in pairs if pair.kind == "place")
    picture = pair.case.scene.render(drawings, 64)
    (outcome,) = judge(load_evaluator(), [pair.case], [picture])
    place = pair.english.place
    elsewhere = next(each for each in ("left", "top") if each != place)
    assert fulfilled(Claim(concept=0, colour=True, place=place), outcome, picture)
    assert not fulfilled(Claim(place=elsewhere), outcome, picture)
    assert not fulfilled(Claim(concept=0), dataclasses.replace(outcome, found=("x",)), picture)
    assert not fulfilled(Claim(colour=True), dataclasses.replace(outcome, background="x"), picture)


@pytest.fixture
def measurement(pairs, untrained, tmp_path) -> TwoLanguages:
    few = [next(pair for pair in pairs if pair.kind == kind) for kind in KINDS]
    named = {c.codepoints: c for pair in few for c in pair.case.scene.concepts}
    return TwoLanguages(
        pairs=few,
        options=QUICK,
        scales=(0.5, 1.0),
        evaluator=untrained(list(named.values())),
        folder=tmp_path / "work",
    )


def test_a_second_native_language_says_what_english_says(pairs):
    arabic = prompt_pairs(small_world("zh"), WorldOptions(), 540, "ar")
    assert len(arabic) == len(pairs)
    for ours, theirs in zip(arabic, pairs, strict=True):
        assert ours.case.scene == theirs.case.scene
        assert ours.case.prompt == theirs.case.prompt
        assert (ours.native, ours.english) == (theirs.native, theirs.english)
        named = [concept.names["ar"] in ours.case.english for concept in ours.case.scene.concepts]
        assert ours.english.concept is None or named[ours.english.concept]
        assert ours.english.colour == ("خلفية" in ours.case.english)
        assert ours.case.english[0] not in " ،,"
        assert ours.case.english[-1] not in " ،,"
    for tongue in ("zh", "xx"):
        with pytest.raises(BridgeError, match="beside zh it may be en, ja, ar, hi, es"):
            prompt_pairs(small_world("zh"), WorldOptions(), 3, tongue)


def test_two_bridges_draw_one_image(measurement, pipe, bridge, other_bridge, tmp_path):
    """Each is alone in its own part, and both are attached in the others."""
    pipe.set_progress_bar_config(disable=True)
    both = dataclasses.replace(measurement, second="ar", scales=(1.0,))
    drawn = []

    def drawing(net):
        return lambda *_: drawn.append(net)

    hooks = [
        each.branch.register_forward_pre_hook(drawing(name))
        for name, each in (("zh", bridge), ("ar", other_bridge))
    ]
    ran = {}
    for part in ("native alone", "ar alone", "scale 1"):
        drawn.clear()
        cases = [pair.case for pair in both.pairs]
        both._draw(part, pipe, bridge, cases, other_bridge)
        ran[part] = set(drawn)
    for hook in hooks:
        hook.remove()
    assert ran == {"native alone": {"zh"}, "ar alone": {"ar"}, "scale 1": {"zh", "ar"}}
    document = both.run(pipe, bridge, other=other_bridge)
    assert document["second"] == "ar"
    assert document["parts"].keys() == {"native alone", "ar alone", "scale 1"}
    assert not bridge.attached
    assert not other_bridge.attached
    written = write_two_languages(document, tmp_path / "work", tmp_path / "out", {})
    page = written[-1].read_text(encoding="utf-8")
    assert "<!-- begin: two languages zh-ar -->" in page
    assert "## Two languages in one image: zh and ar" in page
    assert "| native; ar | pairs | native alone | ar alone | joint |" in page
    assert "| native; ar | 0.5 | 0.75 | 1 |" in page
    assert (tmp_path / "out" / "two-languages-zh-ar.json").is_file()


def test_a_measurement_is_kept_goes_on_and_is_reported(measurement, pipe, bridge, tmp_path):
    pipe.set_progress_bar_config(disable=True)
    hurried = dataclasses.replace(measurement, options=dataclasses.replace(QUICK, time_limit=1e-9))
    assert hurried.run(pipe, bridge)["parts"] == {}
    document = measurement.run(pipe, bridge)
    assert document["parts"].keys() == {"native alone", "English alone", "scale 0.5", "scale 1"}
    assert hurried.run(pipe, bridge) == document
    assert not bridge.attached
    other = dataclasses.replace(measurement, pairs=measurement.pairs[:2])
    with pytest.raises(BridgeError, match="measurement of other"):
        other.run(pipe, bridge)

    written = write_two_languages(document, tmp_path / "work", tmp_path / "out", {"bridge": "b"})
    page = written[-1].read_text(encoding="utf-8")
    assert "## Two languages in one image: zh and English" in page
    (link,) = re.findall(r"\]\((pictures/.*?)\)", page)
    with Image.open(tmp_path / "out" / link) as sheet:
        assert sheet.width >= 3 * 48
    numbers = json.loads((tmp_path / "out" / "two-languages-zh.json").read_text())
    assert numbers["pairs"] == 3
    assert numbers["rows"]["all"]["scale 0.5"]["joint"]["count"] == 3


def test_the_scale_reaches_the_branch(measurement, pipe, bridge):
    pipe.set_progress_bar_config(disable=True)
    cases = [pair.case for pair in measurement.pairs]
    drawn = {
        part: [picture.tobytes() for picture in measurement._draw(part, pipe, bridge, cases)]
        for part in ("native alone", "English alone", "scale 0.5", "scale 1", "scale 0")
    }
    assert drawn["scale 0"] == drawn["English alone"]
    others = ("native alone", "English alone", "scale 0.5", "scale 1")
    assert len({tuple(drawn[part]) for part in others}) == 4


def test_ratios_are_formed_kind_by_kind():
    def part(native, english):
        return {"native": native, "english": english}

    document = {
        "kinds": ["background", "background", "place", "place"],
        "groups": ["native", "shared", "shared", "shared"],
        "parts": {
            "native alone": part([1, 1, 1, 0], [0] * 4),
            "English alone": part([0] * 4, [1, 1, 1, 0]),
            "scale 1": part([1, 1, 1, 0], [1, 0, 1, 1]),
        },
    }
    assert ratio_of(document, [0, 1]).value == pytest.approx(0.5 / 1)
    assert ratio_of(document, [2, 3]).value == pytest.approx(0.5 / 0.25)
    # Joint 2 of 4; products 1 for two pairs and 1/4 for two.
    assert ratio_of(document, [0, 1, 2, 3]).value == pytest.approx(0.5 / 0.625)
    assert rate_of(document, "scale 1", "joint", [0, 1, 2, 3]).hits == 2
    assert rate_of(document, "scale 1.5", "joint", [0]) is None
    assert ratio_of({**document, "parts": {}}, [0]) is None
    assert 1.0 in SCALES


def test_the_first_of_each_kind_are_shown():
    kinds = ["background"] * 6 + ["place"] * 2 + ["second"] * 5
    assert shown_positions(kinds) == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
