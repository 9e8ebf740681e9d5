"""What is drawn to measure a bridge in the emoji world: prompts, scenes, seeds, conditions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.seeds import stream_seed
from bridge_diffusion.worlds.emoji.captions import (
    SINGLE_KINDS,
    background_phrase,
    caption,
    default_colours,
)
from bridge_diffusion.worlds.emoji.concepts import NATIVE_REGIONS, Concept, literal_probes
from bridge_diffusion.worlds.emoji.scenes import Scene

Group = Literal["native", "shared"]
GROUPS: tuple[Group, ...] = ("native", "shared")

BACKBONE, BRIDGE = "backbone", "bridge"
"""Routes: the English model alone, or the measured bridge on it; others are controls' names."""

DRAWING = "drawing"
"""The condition that draws nothing: the vendor's own drawings, for the evaluator's own errors."""

CONTROL = "control:"
"""What the name of another bridge follows, as a condition of pictures and as a system."""

CONDITIONS = {
    "bridge": "native prompt, through the bridge",
    "as_is": "the same native prompt, to the English model as it is",
    "translation": "its English translation, to the English model",
    "unseen_order": "native prompt in a word order that no training caption had",
    "synonym": "native prompt with a synonym that no training caption had",
    "mixed": "object from the native prompt, background from the English one",
    "pair": "two objects in one native prompt, each scored in its half",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldOptions:
    """How much is drawn, and how."""

    language: str = "zh"
    """Language of the native prompts."""
    images: int = 1
    """Pictures of each concept in each condition."""
    steps: int = 20
    """Denoising steps of a picture."""
    guidance: float = 5.0
    """Classifier-free guidance scale."""
    seed: int = 0
    """Another seed, other noise; equal in all conditions, so that their pictures compare."""
    batch_size: int = 16
    """Pictures drawn at once."""
    conditions: tuple[str, ...] = ()
    """Only these of `CONDITIONS` are drawn; all, and the controls, if none is named."""
    time_limit: float | None = None
    """Seconds after which no new batch is begun; what was drawn is scored. None is no limit."""

    def __post_init__(self) -> None:
        if not NATIVE_REGIONS.get(self.language):
            languages = ", ".join(name for name, regions in NATIVE_REGIONS.items() if regions)
            raise BridgeError(
                f"no concepts of the emoji world are native to {self.language!r}; "
                f"languages are {languages}"
            )
        for condition in self.conditions:
            if condition not in CONDITIONS:
                raise BridgeError(
                    f"there is no condition {condition!r}; choose of {', '.join(CONDITIONS)}"
                )
        for name in ("images", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise BridgeError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if not 0 <= self.guidance <= 100:
            raise BridgeError(f"guidance is {self.guidance}, it must be from 0 to 100")
        if self.seed < 0:
            raise BridgeError(f"seed is {self.seed}, it must be 0 or more")
        if self.time_limit is not None and not self.time_limit > 0:
            raise BridgeError(f"time_limit is {self.time_limit} s, it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One picture to draw and to score."""

    condition: str
    """A key of `CONDITIONS`, or "control:NAME"."""
    route: str
    """`BACKBONE`, `BRIDGE`, or the name of a control's bridge."""
    group: Group
    """Whether the concept is native (the English model never saw it) or shared."""
    scene: Scene
    """What the picture should show; its first concept is the measured one."""
    prompt: str
    """What the branch reads, or on the route `BACKBONE` the English model."""
    english: str = ""
    """What the English model reads beside the branch."""
    index: int
    """Which picture of the concept, from 0."""
    seed: int
    """Seed of the picture's noise."""

    @property
    def concept(self) -> Concept:
        return self.scene.concepts[0]

    @property
    def boxes(self) -> tuple[tuple[float, float, float, float], ...]:
        """Where each of the scene's concepts is: left, top, right, bottom as parts of the sides."""
        if self.scene.kind == "pair_left_right":
            return (0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75)
        if self.scene.kind == "pair_top_bottom":
            return (0.25, 0.0, 0.75, 0.5), (0.25, 0.5, 0.75, 1.0)
        return ((0.0, 0.0, 1.0, 1.0),)


def scored_singles(concept: Concept) -> list[Scene]:
    """The scored scenes of one emoji on a default colour: in the middle if there are any.

    Half of the concepts have no scored scene of kind "single"; for them it is the large ones, then
    those beside the middle, the small ones last. Every concept of the world has one of these.
    """
    for kind in ("single", "single_large", *sorted(set(SINGLE_KINDS), reverse=True)):
        scenes = [
            Scene(kind=kind, concepts=(concept,), colours=(colour,)) for colour in default_colours()
        ]
        if scored := [scene for scene in scenes if scene.scored]:
            return scored
    return []


def plan(
    concepts: Sequence[Concept], options: WorldOptions, controls: Mapping[str, str]
) -> Iterator[list[Case]]:
    """The batches to draw, each of one condition.

    All conditions go through the same concepts side by side, the literal probes first, the others
    in a shuffled order, so that a run that is cut short has still measured a fair part of each.

    Args:
        concepts: those to score; held-out ones that are not native to the language are left out.
        controls: the language of each control's bridge, by its name.
    """
    makers, wanted = _makers(concepts, options, controls), options.conditions
    order = drawing_order(concepts, options)
    for index in range(options.images):
        for first in range(0, len(order), options.batch_size):
            chunk = order[first : first + options.batch_size]
            for maker in makers:
                cases = [case for concept in chunk if (case := maker(concept, index)) is not None]
                if cases and (not wanted or cases[0].condition in wanted):
                    yield cases


def group_of(concept: Concept, language: str) -> Group | None:
    """Native, shared, or None for what is held out for another language."""
    if concept.native_to(language):
        return "native"
    return None if concept.held_out else "shared"


def drawing_order(concepts: Sequence[Concept], options: WorldOptions) -> list[Concept]:
    """The concepts to score, the literal probes first, the others in an order of the seed's."""
    wanted = [concept for concept in concepts if group_of(concept, options.language)]
    probes = [concept for concept in literal_probes() if concept in wanted]
    others = [concept for concept in wanted if concept not in probes]
    shuffled = np.random.default_rng(options.seed).permutation(len(others))
    return probes + [others[int(i)] for i in shuffled]


def case_seed(options: WorldOptions, concept: Concept, index: int) -> int:
    """Seed of the noise of the index-th picture of a concept, equal in all conditions."""
    return stream_seed(options.seed, *concept.codepoints.encode(), index)


_Maker = Callable[[Concept, int], Case | None]


def _makers(
    concepts: Sequence[Concept], options: WorldOptions, controls: Mapping[str, str]
) -> list[_Maker]:
    """One function a condition: (concept, index) => case, or None where there is none."""
    shared = [concept for concept in concepts if not concept.held_out]
    language = options.language

    def case(
        condition: str, route: str, scene: Scene, prompt: str, english: str, index: int
    ) -> Case:
        group = group_of(scene.concepts[0], language)
        assert group is not None
        return Case(
            condition=condition,
            route=route,
            group=group,
            scene=scene,
            prompt=prompt,
            english=english,
            index=index,
            seed=case_seed(options, scene.concepts[0], index),
        )

    def single(condition: str, route: str, spoken: str) -> _Maker:
        def make(concept: Concept, index: int) -> Case | None:
            scene = scored_single(concept, index)
            return case(condition, route, scene, scene.caption(spoken), "", index)

        return make

    def unseen_order(concept: Concept, index: int) -> Case | None:
        scene = scored_single(concept, index)
        prompt = caption(language, "unseen_single", (concept.names[language],), scene.colours)
        return case("unseen_order", BRIDGE, scene, prompt, "", index)

    def synonym(concept: Concept, index: int) -> Case | None:
        scene, word = scored_single(concept, index), concept.scored_synonym(language)
        if word is None:
            return None
        prompt = caption(language, scene.kind, (word,), scene.colours)
        return case("synonym", BRIDGE, scene, prompt, "", index)

    def mixed(concept: Concept, index: int) -> Case | None:
        scene = scored_single(concept, index)
        english = background_phrase("en", scene.colours[0])
        return case("mixed", BRIDGE, scene, concept.names[language], english, index)

    def pair(concept: Concept, index: int) -> Case | None:
        scene = scored_pair(concept, shared, index)
        if scene is None:
            return None
        return case("pair", BRIDGE, scene, scene.caption(language), "", index)

    return [
        single("bridge", BRIDGE, language),
        single("as_is", BACKBONE, language),
        single("translation", BACKBONE, "en"),
        *(single(CONTROL + name, name, spoken) for name, spoken in controls.items()),
        unseen_order,
        synonym,
        mixed,
        pair,
    ]


def scored_single(concept: Concept, index: int) -> Scene:
    """The index-th picture of a concept shows this one of its `scored_singles`."""
    scenes = scored_singles(concept)
    assert scenes, f"{concept.codepoints} has no scored scene"
    return scenes[index % len(scenes)]


def scored_pair(concept: Concept, partners: Sequence[Concept], index: int) -> Scene | None:
    """A scored pair scene with the concept first; None if there is nothing to pair it with."""
    partners = [partner for partner in partners if partner != concept]
    if not partners:
        return None
    random = np.random.default_rng([index, *concept.codepoints.encode()])
    for _ in range(1000):
        scene = Scene(
            kind=("pair_left_right", "pair_top_bottom")[int(random.integers(2))],
            concepts=(concept, partners[int(random.integers(len(partners)))]),
            colours=(default_colours()[int(random.integers(len(default_colours())))],),
        )
        if scene.scored:
            return scene
    return None
