import hashlib

import numpy as np
import pytest

from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji import captions
from bridge_diffusion.worlds.emoji.captions import KINDS, colour_rgb, default_colours
from bridge_diffusion.worlds.emoji.concepts import (
    LANGUAGES,
    all_concepts,
    find_concept,
    shipped_concepts,
    small_world,
)
from bridge_diffusion.worlds.emoji.scenes import (
    DEFAULT_KINDS,
    CaptionMix,
    EmojiScenes,
    Scene,
    draw_scene,
)
from bridge_diffusion.worlds.emoji.sprites import Sprites


def scenes(noto: Sprites, language: str, **changes: object) -> EmojiScenes:
    settings = {"concepts": all_concepts(), "size": 64, "count": 20_000, "seed": 3} | changes
    return EmojiScenes(sprites=noto, language=language, **settings)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "deac7f466755bc137818a4469f97f31886c16c96a61d0ecffce47b1d7d2ebeef"),
        ("zh", "8ef217302aaf1847575a925036a3df340e10c7737d5c30cd92ce3b786c951beb"),
    ],
)
def test_scenes_and_captions_stay_the_same(noto: Sprites, language: str, expected: str) -> None:
    """Trained weights were made with these scenes: no change may move a random draw."""
    digest = hashlib.sha256()
    dataset = scenes(noto, language)
    for index in range(200):
        scene, said, _ = dataset.scene(index)
        codes = (concept.codepoints for concept in scene.concepts)
        digest.update("|".join((scene.kind, *codes, *scene.colours, said.native)).encode())
    assert digest.hexdigest() == expected


def test_pictures_stay_the_same() -> None:
    digest = hashlib.sha256()
    dataset = EmojiScenes.shipped(language="zh", size=64, seed=7)
    for index in range(50):
        pair = dataset[index]
        texts = "|".join((*pair.captions, pair.english, pair.key))
        digest.update(pair.image.tobytes() + texts.encode())
    expected = "13395a99480e5734d9882cb890fbc8f250ddb100ce05acbd08fbc38a58e4bc28"
    assert digest.hexdigest() == expected


def test_a_scene_is_a_function_of_seed_and_index(noto: Sprites) -> None:
    shipped = shipped_concepts()
    dataset: PairDataset = scenes(noto, "zh", concepts=shipped)
    backwards = [dataset[index] for index in reversed(range(20))][::-1]
    other = scenes(noto, "zh", concepts=shipped, seed=4)
    for index, pair in enumerate(backwards):
        again = dataset[index]
        assert again.image.tobytes() == pair.image.tobytes()
        assert (again.captions, again.key) == (pair.captions, pair.key)
    assert any(other[i].captions != backwards[i].captions for i in range(20))
    with pytest.raises(IndexError):
        dataset[20_000]


def test_scored_scenes_never_appear_in_training(noto: Sprites) -> None:
    dataset = scenes(noto, "zh")
    drawn = [dataset.scene(index)[0] for index in range(20_000)]
    assert not any(scene.scored for scene in drawn)
    assert {scene.kind for scene in drawn} == set(KINDS)
    for kind, weight in DEFAULT_KINDS.items():
        share = sum(scene.kind == kind for scene in drawn) / len(drawn)
        assert share == pytest.approx(weight, abs=0.02)


def test_about_a_tenth_of_all_scenes_is_scored() -> None:
    flags = [
        Scene(kind=kind, concepts=(concept,), colours=(colour,)).scored
        for concept in all_concepts()
        for colour in default_colours()
        for kind in ("single", "single_left", "single_small")
    ]
    assert 0.08 < np.mean(flags) < 0.12


@pytest.mark.parametrize("language", LANGUAGES)
def test_scored_synonyms_never_appear_in_training(noto: Sprites, language: str) -> None:
    mix = CaptionMix(name_only=1.0, background_only=0.0, half_pair=0.0, synonym=1.0)
    dataset = scenes(noto, language, kinds={"single": 1.0}, mix=mix)
    captions = {dataset.scene(index)[1].native for index in range(4_000)}
    scored = {concept.scored_synonym(language) for concept in all_concepts()}
    trained = {word for c in all_concepts() for word in c.training_synonyms(language)}
    assert not captions & scored
    assert len(captions & trained) > 300


def test_half_pair_captions_name_what_is_there(noto: Sprites) -> None:
    mix = CaptionMix(name_only=0.0, background_only=0.0, half_pair=1.0, synonym=0.0)
    dataset = scenes(noto, "zh", kinds={"pair_left_right": 1.0}, mix=mix)
    for index in range(200):
        scene, said, _ = dataset.scene(index)
        first, second = (concept.names["zh"] for concept in scene.concepts)
        assert (first in said.native and "左" in said.native) or (
            second in said.native and "右" in said.native
        )


def test_held_out_concepts_are_drawn_as_often_as_asked() -> None:
    concepts = small_world("zh")
    held_out = sum(concept.held_out for concept in concepts)
    random = np.random.default_rng(0)
    for weight in (1.0, 2.0):
        drawn = [draw_scene(concepts, {"single": 1.0}, random, weight) for _ in range(3000)]
        share = sum(scene.concepts[0].held_out for scene in drawn) / len(drawn)
        assert share == pytest.approx(
            weight * held_out / (len(concepts) + (weight - 1) * held_out), abs=0.03
        )


def test_draw_scene_takes_the_given_concepts() -> None:
    concepts = small_world("zh")[:3]
    random = np.random.default_rng(0)
    for _ in range(50):
        scene = draw_scene(concepts, {"pair_top_bottom": 1.0}, random)
        assert scene.concepts[0] is not scene.concepts[1]
        assert {c.codepoints for c in scene.concepts} <= {c.codepoints for c in concepts}


@pytest.mark.parametrize(
    ("kind", "column", "row"),
    [
        ("single", 0.5, 0.5),
        ("single_left", 0.26, 0.5),
        ("single_right", 0.74, 0.5),
        ("single_top", 0.5, 0.26),
        ("single_bottom", 0.5, 0.74),
    ],
)
def test_render_puts_the_emoji_where_the_caption_says(
    noto: Sprites, kind: str, column: float, row: float
) -> None:
    scene = Scene(kind=kind, concepts=(find_concept("🧧"),), colours=("blue",))
    pixels = np.asarray(scene.render(noto, 64)).astype(int)
    drawn = np.abs(pixels - np.array(colour_rgb("blue"))).sum(axis=2) > 30
    rows, columns = np.nonzero(drawn)
    assert columns.mean() / 64 == pytest.approx(column, abs=0.03)
    assert rows.mean() / 64 == pytest.approx(row, abs=0.03)
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == colour_rgb("blue")).all()


def test_gradient_goes_from_the_first_to_the_second_colour(noto: Sprites) -> None:
    concept = find_concept("🧧")
    scene = Scene(kind="gradient_top_bottom", concepts=(concept,), colours=("red", "green"))
    picture = scene.render(noto, 64)
    assert picture.getpixel((0, 0)) == colour_rgb("red")
    assert picture.getpixel((0, 63)) == colour_rgb("green")


def test_shipped_scenes_need_a_known_language() -> None:
    with pytest.raises(BridgeError, match="no captions in 'fr'; it has en, zh, ja, ar, hi, es"):
        EmojiScenes.shipped(language="fr", size=64)


@pytest.mark.parametrize("language", LANGUAGES)
def test_scored_captions_of_the_middle_never_appear_in_training(
    noto: Sprites, language: str
) -> None:
    kinds = {"single": 0.5, "single_large": 0.1, "pair_left_right": 0.2, "pair_top_bottom": 0.2}
    dataset = scenes(noto, language, concepts=small_world("zh")[:40], kinds=kinds)
    captions = {dataset.scene(index)[1].native for index in range(4_000)}
    singles = [
        Scene(kind=kind, concepts=(concept,), colours=(colour,))
        for kind in ("single", "single_large")
        for concept in dataset.concepts
        for colour in default_colours()
    ]
    scored = {scene.caption(language) for scene in singles if scene.scored}
    trained = {scene.caption(language) for scene in singles if not scene.scored}
    assert not captions & scored
    assert len(captions & trained) > len(trained) / 2


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_each_language_tells_a_part_of_a_scene(noto: Sprites, language: str) -> None:
    """The English half never names what the English world has not seen; nothing scored is told."""
    dataset = scenes(noto, language, concepts=small_world("zh"), mix=CaptionMix(two_languages=1.0))
    told = [dataset.scene(index)[:2] for index in range(3_000)]
    for scene, said in told:
        whole = said.native + said.english
        for concept in scene.concepts:
            named = [concept.names[language] in said.native, concept.names["en"] in said.english]
            assert any(named), (scene, said)
            assert not (concept.held_out and named[1] and len(scene.concepts) == 1)
        if said.english:
            assert said.english.isascii()
            spoken = "gradient" if scene.kind.startswith("gradient") else "background"
            colours = [captions.templates()["colors"][c][spoken] for c in scene.colours]
            assert all(c[language] in whole or c["en"] in whole for c in colours) or (
                scene.kind.startswith("pair") and said.english.endswith(("right", "bottom"))
            )
        else:
            assert all(concept.held_out for concept in scene.concepts)
    singles = [
        Scene(kind="single", concepts=(concept,), colours=(colour,))
        for concept in dataset.concepts
        for colour in default_colours()
    ]
    wanted = {
        (scene.concepts[0].names[language], captions.background_phrase("en", scene.colours[0]))
        for scene in singles
        if scene.scored
    }
    assert not wanted & {(said.native, said.english) for _, said in told}
