"""Scenes: one or two emoji on a plain or graded background, with a caption in one language.

Scene i is a pure function of (seed, i), so a training run resumes without any state, two builds
are equal, and nothing needs to be stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from PIL import Image

from bridge_diffusion.data.pairs import Pair
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.captions import (
    background_phrase,
    caption,
    colour_rgb,
    default_colours,
    half_caption,
)
from bridge_diffusion.worlds.emoji.concepts import LANGUAGES, Concept, all_concepts, small_world
from bridge_diffusion.worlds.emoji.sprites import Sprites

# Side of the emoji as a part of the picture's side, and the centre as parts of width and height.
_LAYOUT: dict[str, tuple[tuple[float, float, float], ...]] = {
    "single": ((0.70, 0.5, 0.5),),
    "single_small": ((0.35, 0.5, 0.5),),
    "single_large": ((0.95, 0.5, 0.5),),
    "single_left": ((0.45, 0.26, 0.5),),
    "single_right": ((0.45, 0.74, 0.5),),
    "single_top": ((0.45, 0.5, 0.26),),
    "single_bottom": ((0.45, 0.5, 0.74),),
    "pair_left_right": ((0.46, 0.26, 0.5), (0.46, 0.74, 0.5)),
    "pair_top_bottom": ((0.46, 0.5, 0.26), (0.46, 0.5, 0.74)),
    "gradient_top_bottom": ((0.70, 0.5, 0.5),),
}

# One object in the middle is most of the scenes: it is what a young model has to learn first.
DEFAULT_KINDS = {
    "single": 0.42,
    "single_small": 0.06,
    "single_large": 0.10,
    "single_left": 0.08,
    "single_right": 0.08,
    "single_top": 0.08,
    "single_bottom": 0.08,
    "pair_left_right": 0.04,
    "pair_top_bottom": 0.04,
    "gradient_top_bottom": 0.02,
}

_BRIDGE_HELD_OUT_WEIGHT = 2.0
_BRIDGE_TWO_LANGUAGES = 0.45


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a picture shows."""

    kind: str
    """One of `captions.KINDS`."""
    concepts: tuple[Concept, ...]
    """One concept, or two for a pair (left, right or top, bottom)."""
    colours: tuple[str, ...]
    """One background colour, or two for a gradient (top, bottom)."""

    @property
    def scored(self) -> bool:
        """True for the tenth of all scenes that is kept for scoring, absent from training."""
        text = "|".join((self.kind, *(c.codepoints for c in self.concepts), *self.colours))
        return sum(i * b for i, b in enumerate(text.encode(), start=1)) % 10 == 0

    def caption(self, language: str) -> str:
        names = tuple(concept.names[language] for concept in self.concepts)
        return caption(language, self.kind, names, self.colours)

    def render(
        self, sprites: Sprites, size: int, jitter: np.random.Generator | None = None
    ) -> Image.Image:
        """Draws the scene, RGB, `size` x `size` pixels; `jitter` moves the emoji by up to 3 %."""
        picture = _background(self.colours, size)
        for concept, (part, x, y) in zip(self.concepts, _LAYOUT[self.kind], strict=True):
            if jitter is not None:
                part *= jitter.uniform(0.97, 1.03)
                x += jitter.uniform(-0.02, 0.02)
                y += jitter.uniform(-0.02, 0.02)
            side = max(1, round(part * size))
            sprite = sprites.picture(concept.codepoints, side)
            corner = (round(x * size - side / 2), round(y * size - side / 2))
            picture.paste(sprite, corner, sprite)
        return picture


def _background(colours: Sequence[str], size: int) -> Image.Image:
    if len(colours) == 1:
        return Image.new("RGB", (size, size), colour_rgb(colours[0]))
    top, bottom = (np.array(colour_rgb(colour), dtype=np.float64) for colour in colours)
    part = np.linspace(0.0, 1.0, size)[:, None]
    rows = (top * (1 - part) + bottom * part).round().astype(np.uint8)
    return Image.fromarray(np.repeat(rows[:, None, :], size, axis=1), "RGB")


def draw_scene(
    concepts: Sequence[Concept],
    kinds: dict[str, float],
    random: np.random.Generator,
    held_out_weight: float = 1.0,
) -> Scene:
    """A random scene that is not among the scored ones."""
    shares = None
    if held_out_weight != 1.0:
        shares = np.array([held_out_weight if c.held_out else 1.0 for c in concepts])
        shares /= shares.sum()
    names, weights = list(kinds), np.array(list(kinds.values()))
    while True:
        kind = names[random.choice(len(names), p=weights / weights.sum())]
        count = 2 if kind.startswith("pair") else 1
        chosen = random.choice(len(concepts), size=count, replace=False, p=shares)
        shades = 2 if kind.startswith("gradient") else 1
        colours = random.choice(default_colours(), size=shades, replace=False)
        scene = Scene(
            kind=kind,
            concepts=tuple(concepts[int(i)] for i in chosen),
            colours=tuple(str(colour) for colour in colours),
        )
        if not scene.scored:
            return scene


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionMix:
    """How often a caption tells less than the scene shows."""

    name_only: float = 0.2
    """Part of single scenes whose caption is the bare name: any background is right."""
    background_only: float = 0.05
    """Part of scenes whose caption is the background alone: any object is right."""
    half_pair: float = 0.3
    """Part of pair scenes whose caption names one of the two."""
    synonym: float = 0.1
    """Part of single scenes that use a CLDR synonym (a training one) for the name."""
    two_languages: float = 0.0
    """Part of scenes of which one part is said in English and the rest in the native language."""


def scene_caption(scene: Scene, language: str, mix: CaptionMix, random: np.random.Generator) -> str:
    """A training caption of a scene."""
    draw = random.random()
    if draw < mix.background_only and len(scene.colours) == 1:
        return background_phrase(language, scene.colours[0])
    if scene.kind.startswith("pair"):
        if random.random() < mix.half_pair:
            second = bool(random.integers(2))
            name = scene.concepts[int(second)].names[language]
            return half_caption(language, scene.kind, name, second, scene.colours[0])
        return scene.caption(language)
    concept = scene.concepts[0]
    name = concept.names[language]
    synonyms = concept.training_synonyms(language)
    if synonyms and random.random() < mix.synonym:
        name = synonyms[int(random.integers(len(synonyms)))]
    if random.random() < mix.name_only:
        return name
    return caption(language, scene.kind, (name,), scene.colours)


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a scene."""

    native: str
    """What the branch reads, or a model of one language."""
    english: str = ""
    """What the backbone reads beside the branch."""


def said_in_two(scene: Scene, language: str, random: np.random.Generator) -> Said:
    """Each language tells a part of the scene; a held-out concept is named in the native one."""
    known = [not concept.held_out for concept in scene.concepts]
    if scene.kind.startswith("pair"):
        if not any(known):
            return Said(scene.caption(language))
        first = bool(random.integers(2)) if all(known) else known[0]
        halves = [
            half_caption(tongue, scene.kind, concept.names[tongue], second, scene.colours[0])
            for concept, second, tongue in zip(
                scene.concepts,
                (False, True),
                ("en", language) if first else (language, "en"),
                strict=True,
            )
        ]
        return Said(halves[first], halves[not first])
    names, colour = scene.concepts[0].names, scene.colours[0]
    if scene.kind == "single":
        if known[0] and random.random() < 0.25:
            return Said(background_phrase(language, colour), names["en"])
        return Said(names[language], background_phrase("en", colour))
    # What is left of the English caption without the object: where, how large, on what.
    rest = caption("en", scene.kind, ("",), scene.colours).strip(" ,")
    return Said(names[language], rest)


def _check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise BridgeError(
            f"the emoji world has no captions in {language!r}; it has {', '.join(LANGUAGES)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EmojiScenes:
    """A dataset of `count` scenes: item i is a pure function of (seed, i).

    Implements `bridge_diffusion.data.PairDataset`.
    """

    concepts: tuple[Concept, ...]
    """What may be in the pictures."""
    sprites: Sprites
    """The drawings of one vendor."""
    language: str
    """Language of the captions."""
    size: int
    """Side of the square pictures, pixels."""
    count: int
    """Number of scenes."""
    seed: int = 0
    """Another seed, other scenes."""
    kinds: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_KINDS))
    """Weights of the kinds of scene."""
    mix: CaptionMix = field(default_factory=CaptionMix)
    """How often captions tell less than all."""
    held_out_weight: float = 1.0
    """How many times as often as others a held-out concept is drawn: a bridge has them to learn,
    while it has the others only to name."""

    @classmethod
    def shipped(cls, *, language: str, size: int, seed: int = 0, count: int = 1_000_000) -> Self:
        """Scenes of a language's `small_world` with the Noto pictures of this package.

        Raises:
            BridgeError: the world has no captions in this language.
        """
        _check_language(language)
        return cls(
            concepts=small_world(language),
            sprites=Sprites.shipped("noto"),
            language=language,
            size=size,
            count=count,
            seed=seed,
            mix=CaptionMix(two_languages=_BRIDGE_TWO_LANGUAGES),
            held_out_weight=_BRIDGE_HELD_OUT_WEIGHT,
        )

    @classmethod
    def whole(cls, *, language: str, size: int, seed: int = 0, count: int = 1_000_000) -> Self:
        """Scenes of all concepts with Noto pictures drawn anew.

        Raises:
            BridgeError: the world has no captions in this language, or the extra `world` with the
                drawing packages is not installed.
        """
        _check_language(language)
        concepts = all_concepts()
        sprites = Sprites.draw("noto", [concept.codepoints for concept in concepts])
        return cls(
            concepts=concepts,
            sprites=sprites,
            language=language,
            size=size,
            count=count,
            seed=seed,
            mix=CaptionMix(two_languages=_BRIDGE_TWO_LANGUAGES),
            held_out_weight=_BRIDGE_HELD_OUT_WEIGHT,
        )

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> tuple[Scene, Said, np.random.Generator]:
        """Scene `index`, its texts, and the generator that goes on to jitter the picture."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = np.random.default_rng((self.seed, index))
        scene = draw_scene(self.concepts, self.kinds, random, self.held_out_weight)
        if self.mix.two_languages and random.random() < self.mix.two_languages:
            said = said_in_two(scene, self.language, random)
        else:
            said = Said(scene_caption(scene, self.language, self.mix, random))
        return scene, said, random

    def __getitem__(self, index: int) -> Pair:
        scene, said, random = self.scene(index)
        return Pair(
            image=scene.render(self.sprites, self.size, random),
            captions=(said.native,),
            key=f"{self.language}-{self.seed}-{index}",
            english=said.english,
        )


@dataclass(frozen=True, slots=True)
class ShuffledCaptions:
    """The control whose branch can learn nothing of words: each scene has another one's caption."""

    scenes: EmojiScenes
    """The scenes, in their order."""

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Pair:
        pair = self.scenes[index]
        another = self.scenes.scene((index + len(self) // 2) % len(self))[1].native
        return replace(pair, captions=(another,), key=f"{pair.key}-shuffled")
