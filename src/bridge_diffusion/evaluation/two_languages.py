"""Two languages in one image: the native prompt says one part of a scored scene, English the rest.

Three kinds of pairs: the object in the native language and the **background** in English; the
object and its **place** (with the background); one object in each language (**second**). A half is
right if everything that it says is there: an object is recognised first among all concepts (in its
half of the picture, where there are two), a background is the nearest of the eight colours at the
border, a place is where what is not background lies. Both halves right is the *joint* accuracy.
Each half is drawn alone too, the native one through the bridge beside an empty English prompt, the
English one by the English model without the bridge. If the two did not disturb each other, the
joint accuracy would be about the product of the two alone.

In place of English a second native language may say its half, through a bridge of its own that is
attached to the same model at the same time; English then says nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.drawing import draw, prepared
from bridge_diffusion.evaluation.evaluator import LoadedEvaluator
from bridge_diffusion.evaluation.kept import part_key, read_kept, write_kept, write_strip
from bridge_diffusion.evaluation.plan import (
    BRIDGE,
    Case,
    WorldOptions,
    case_seed,
    drawing_order,
    group_of,
    scored_pair,
)
from bridge_diffusion.evaluation.retrieval import border_colour
from bridge_diffusion.evaluation.world import Outcome, judge
from bridge_diffusion.prompting import prompt_together
from bridge_diffusion.worlds.emoji.captions import (
    background_phrase,
    caption,
    default_colours,
    half_caption,
)
from bridge_diffusion.worlds.emoji.concepts import LANGUAGES, Concept
from bridge_diffusion.worlds.emoji.scenes import Scene

KINDS = ("background", "place", "second")
"""What English says: the background, place and background, or a second object."""

NATIVE_ALONE, ENGLISH_ALONE = "native alone", "English alone"
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Of the branch, at which both are drawn."""
SCALES_OF_TWO = (0.5, 0.75, 1.0)
"""Of both branches, where two are attached: what they add to the backbone adds up."""

SHOWN = 4
"""Pictures of each kind that are kept to be shown."""

_PLACES = ("left", "right", "top", "bottom")
_FAR = 60.0  # distance in RGB, of 0..255, from the border's colour: not background
_ASIDE = 0.08  # of the picture's side: less than this from the middle is no place


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What one half of a pair of prompts says of the picture."""

    concept: int | None = None
    """Which of the scene's concepts is named."""
    colour: bool = False
    """The background is named."""
    place: str | None = None
    """Where the object is: left, right, top or bottom."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptPair:
    """One scene, told in two languages."""

    kind: str
    """One of `KINDS`."""
    case: Case
    """Its `prompt` is the native half, its `english` the English one."""
    native: Claim
    """What the native half says."""
    english: Claim
    """What the English half says."""


def prompt_pairs(
    concepts: Sequence[Concept], options: WorldOptions, count: int, second: str = "en"
) -> list[PromptPair]:
    """`count` pairs, of each kind as many, of scenes that no training set has.

    `second`: the language that says what English otherwise does (in `Case.english`).

    Fewer come where there are fewer scored scenes of a kind: of two hundred concepts about as many.
    """
    if second not in LANGUAGES or second == options.language:
        others = ", ".join(tongue for tongue in LANGUAGES if tongue != options.language)
        raise BridgeError(
            f"the second language is {second!r}; beside {options.language} it may be {others}"
        )
    order = drawing_order(concepts, options)
    makers = (_backgrounds, _places, _seconds)
    return [
        pair
        for kind, make in enumerate(makers)
        for pair in islice(make(order, options, second), count // 3 + (kind < count % 3))
    ]


def _pair(
    kind: str,
    scene: Scene,
    options: WorldOptions,
    texts: tuple[str, str],
    claims: tuple[Claim, Claim],
) -> PromptPair:
    """`texts`, `claims`: of the native half, of the English one."""
    concept = scene.concepts[0]
    group = group_of(concept, options.language)
    assert group is not None
    case = Case(
        condition=kind,
        route=BRIDGE,
        group=group,
        scene=scene,
        prompt=texts[0],
        english=texts[1],
        index=0,
        seed=case_seed(options, concept, default_colours().index(scene.colours[0])),
    )
    return PromptPair(kind=kind, case=case, native=claims[0], english=claims[1])


def _scored(order: Sequence[Concept], kinds: Sequence[str], seed: int) -> Iterator[Scene]:
    """All scored scenes of one emoji of these kinds, in an order of the seed's."""
    scenes = [
        scene
        for concept in order
        for kind in kinds
        for colour in default_colours()
        if (scene := Scene(kind=kind, concepts=(concept,), colours=(colour,))).scored
    ]
    for i in np.random.default_rng(seed).permutation(len(scenes)):
        yield scenes[int(i)]


def _backgrounds(
    order: Sequence[Concept], options: WorldOptions, second: str
) -> Iterator[PromptPair]:
    for scene in _scored(order, ("single",), options.seed):
        texts = (
            scene.concepts[0].names[options.language],
            background_phrase(second, scene.colours[0]),
        )
        yield _pair("background", scene, options, texts, (Claim(concept=0), Claim(colour=True)))


def _places(order: Sequence[Concept], options: WorldOptions, second: str) -> Iterator[PromptPair]:
    kinds = tuple(f"single_{place}" for place in _PLACES)
    for scene in _scored(order, kinds, options.seed):
        place = scene.kind.removeprefix("single_")
        # What is left of the caption without the object, as in training.
        rest = caption(second, scene.kind, ("",), scene.colours).strip(" ,،、，")
        texts = (scene.concepts[0].names[options.language], rest)
        yield _pair(
            "place", scene, options, texts, (Claim(concept=0), Claim(colour=True, place=place))
        )


def _seconds(order: Sequence[Concept], options: WorldOptions, second: str) -> Iterator[PromptPair]:
    """The English half names a concept that the English model knows, first or second in turn."""
    shared = [concept for concept in order if not concept.held_out]
    for index in range(1000):
        for position, concept in enumerate(order):
            scene = scored_pair(concept, shared, index)
            if scene is None:
                continue
            english_first = not concept.held_out and (index + position) % 2 == 0
            spoken = (second, options.language) if english_first else (options.language, second)
            halves = [
                half_caption(tongue, scene.kind, each.names[tongue], is_second, scene.colours[0])
                for each, is_second, tongue in zip(
                    scene.concepts, (False, True), spoken, strict=True
                )
            ]
            claims = (Claim(concept=0, colour=True), Claim(concept=1))  # of first and second half
            if english_first:
                halves.reverse()
                claims = claims[1], claims[0]
            yield _pair("second", scene, options, (halves[0], halves[1]), claims)


def place_of(picture: Image.Image) -> str | None:
    """Where the middle of what is not background lies: left, right, top, bottom, or None.

    Background is what is within a distance of 60 in RGB from the border's median colour.
    """
    array = np.asarray(picture.convert("RGB"), dtype=np.float64)
    far = np.linalg.norm(array - border_colour(picture), axis=2) > _FAR
    if not far.any():
        return None
    ys, xs = np.nonzero(far)
    x, y = xs.mean() / far.shape[1] - 0.5, ys.mean() / far.shape[0] - 0.5
    if max(abs(x), abs(y)) < _ASIDE:
        return None
    if abs(x) >= abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def fulfilled(claim: Claim, outcome: Outcome, picture: Image.Image) -> bool:
    """Everything that a half says is in the picture."""
    scene = outcome.case.scene
    if claim.concept is not None and (
        outcome.found[claim.concept] != scene.concepts[claim.concept].codepoints
    ):
        return False
    if claim.colour and outcome.background != scene.colours[0]:
        return False
    return claim.place is None or place_of(picture) == claim.place


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoLanguages:
    """The measurement: what is drawn, who looks, and where what was seen is kept."""

    pairs: Sequence[PromptPair]
    """From `prompt_pairs`."""
    options: WorldOptions
    """How pictures are drawn."""
    scales: Sequence[float]
    """Of the branch, for both languages; 1 is that of the ratio."""
    evaluator: LoadedEvaluator
    """Tells what a picture shows."""
    folder: Path
    """`two-languages-LANGUAGE.json`, and the pictures that are shown."""
    second: str = "en"
    """Language of the other half; but for English a bridge has to read it."""

    def run(
        self,
        pipe: Any,
        bridge: Bridge,
        progress: Callable[[int, int], None] | None = None,
        other: Bridge | None = None,
    ) -> dict[str, Any]:
        """Draw the parts that have not been seen; gives the whole document.

        The time limit of the options ends it between two parts; the same call goes on.

        Args:
            pipe: the English model, a stock pipeline without a bridge on it.
            progress: called with the pictures that are done and their number in all.
            other: the bridge that reads the second language; None where it is English.

        Raises:
            BridgeError: a picture has NaN, or the folder holds a measurement of something else.
        """
        assert (other is None) == (self.second == "en")
        started = time.monotonic()
        document = self._document()
        nets = [pipe.unet, pipe.text_encoder, bridge.branch, bridge.text_encoder.model]
        nets += [] if other is None else [other.branch, other.text_encoder.model]
        key = part_key(*(module_hash(net) for net in nets))
        alone = alone_name(self.second)
        parts = [NATIVE_ALONE, alone, *(scale_name(scale) for scale in self.scales)]
        for done, part in enumerate(parts):
            if document["parts"].get(part, {}).get("of") != key:
                limit = self.options.time_limit
                if limit is not None and time.monotonic() - started >= limit:
                    break
                document["parts"][part] = {"of": key, **self._see(part, pipe, bridge, other)}
                write_kept(self._path, document)
            if progress is not None:
                progress((done + 1) * len(self.pairs), len(parts) * len(self.pairs))
        return document

    def _document(self) -> dict[str, Any]:
        free = ("time_limit", "batch_size", "images", "conditions")
        options = {n: getattr(self.options, n) for n in self.options.__slots__ if n not in free}
        described = {
            "options": options,
            "kinds": [pair.kind for pair in self.pairs],
            "groups": [pair.case.group for pair in self.pairs],
            "prompts": [[pair.case.prompt, pair.case.english] for pair in self.pairs],
        }
        if self.second != "en":
            described["second"] = self.second
        return {"parts": {}, **read_kept(self._path, described)}

    @property
    def _path(self) -> Path:
        return self.folder / f"two-languages-{self._names}.json"

    @property
    def _names(self) -> str:
        return names_of(self.options.language, self.second)

    def _see(
        self, part: str, pipe: Any, bridge: Bridge, other: Bridge | None
    ) -> dict[str, list[int]]:
        pictures: list[Image.Image] = []
        with prepared(pipe, bridge):
            for first in range(0, len(self.pairs), self.options.batch_size):
                some = self.pairs[first : first + self.options.batch_size]
                pictures += self._draw(part, pipe, bridge, [pair.case for pair in some], other)
        outcomes = judge(self.evaluator, [pair.case for pair in self.pairs], pictures)
        write_strip(
            part_strip(self.folder, self._names, part),
            [pictures[i] for i in shown_positions([pair.kind for pair in self.pairs])],
        )
        seen = list(zip(self.pairs, outcomes, pictures, strict=True))
        return {
            "native": [int(fulfilled(pair.native, o, picture)) for pair, o, picture in seen],
            "english": [int(fulfilled(pair.english, o, picture)) for pair, o, picture in seen],
        }

    def _draw(
        self,
        part: str,
        pipe: Any,
        bridge: Bridge,
        cases: Sequence[Case],
        other: Bridge | None = None,
    ) -> list[Image.Image]:
        native, second = [case.prompt for case in cases], [case.english for case in cases]
        alone = alone_name(self.second)
        scale = float(part.removeprefix(_SCALE)) if part not in (NATIVE_ALONE, alone) else 1.0
        if other is None:
            if part == alone:
                return draw(pipe, {"prompt": second}, cases, self.options)
            with _attached(pipe, bridge):
                english = second if part != NATIVE_ALONE else ""
                inputs = bridge.prompt(native, english=english, scale=scale)
                return draw(pipe, inputs, cases, self.options)
        read = [(bridge, native)] if part != alone else []
        read += [(other, second)] if part != NATIVE_ALONE else []
        with _attached(pipe, *(each for each, _ in read)):
            parts = [each.part(texts, scale=scale) for each, texts in read]
            return draw(pipe, prompt_together(*parts), cases, self.options)


@contextmanager
def _attached(pipe: Any, *bridges: Bridge) -> Iterator[None]:
    try:
        for bridge in bridges:
            bridge.attach(pipe)
        yield
    finally:
        for bridge in bridges:
            bridge.detach()


def alone_name(second: str) -> str:
    """The part of the second language alone."""
    return ENGLISH_ALONE if second == "en" else f"{second} alone"


def names_of(language: str, second: str) -> str:
    """Both languages in the names of files: "zh" with English, "zh-ar"."""
    return language if second == "en" else f"{language}-{second}"


_SCALE = "scale "


def scale_name(scale: float) -> str:
    """The part of both languages at a scale of the branch."""
    return f"{_SCALE}{scale:g}"


def shown_positions(kinds: Sequence[str]) -> list[int]:
    """The first pairs of each kind."""
    return [i for kind in KINDS for i in [j for j, k in enumerate(kinds) if k == kind][:SHOWN]]


def part_strip(folder: Path, names: str, part: str) -> Path:
    """Where the shown pictures of a part are kept; `names` as `names_of` gives them."""
    return folder / "strips" / f"{names}-two-{part.replace(' ', '-').lower()}.png"
