"""Does a bridge teach the English world what it never saw? Draw, and let the evaluator look."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.drawing import draw_cases, prepared
from bridge_diffusion.evaluation.evaluator import SIDE, LoadedEvaluator, load_evaluator
from bridge_diffusion.evaluation.plan import (
    BACKBONE,
    BRIDGE,
    CONDITIONS,
    DRAWING,
    GROUPS,
    Case,
    Group,
    WorldOptions,
    group_of,
    plan,
    scored_singles,
)
from bridge_diffusion.evaluation.retrieval import (
    Rate,
    border_colour,
    nearest_colour,
    ranks,
    top_k,
)
from bridge_diffusion.worlds.emoji.captions import colour_rgb, default_colours
from bridge_diffusion.worlds.emoji.concepts import Concept, small_world
from bridge_diffusion.worlds.emoji.sprites import Sprites

_KEPT_SIDE = 128  # pixels; pictures are kept for the report no larger than this


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A picture's score."""

    case: Case
    """What was asked for."""
    rank: int
    """How many concepts fit better than the right one; in a pair, the worse of the two."""
    found: tuple[str, ...]
    """Code points of the concept that fits best, in each box of the case."""
    background: str
    """The default colour that is nearest to the picture's border."""
    picture: Image.Image | None = field(repr=False)
    """The picture, at most 128 pixels to a side; None but for the first of each concept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One row of the result."""

    condition: str
    """As in `Case`, or `DRAWING`."""
    group: Group
    """Native or shared concepts."""
    top1: Rate
    """The right concept is first among all the evaluator's concepts."""
    top5: Rate
    """It is among the first five."""
    background: Rate
    """The border has the wanted colour."""

    def to_json(self) -> dict[str, Any]:
        return {
            "condition": self.condition,
            "group": self.group,
            "top1": self.top1.to_json(),
            "top5": self.top5.to_json(),
            "background": self.background.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldResult:
    """Everything that was measured."""

    options: WorldOptions
    """How it was drawn."""
    concepts: int
    """Number of concepts that retrieval chooses from."""
    scores: tuple[Score, ...]
    """By condition and group."""
    outcomes: tuple[Outcome, ...]
    """Picture by picture, in the order of drawing."""
    evaluator: dict[str, Any]
    """The evaluator's own accuracy on held-out renderings."""
    controls: dict[str, str]
    """Language of the prompts of each control's bridge."""
    complete: bool
    """False if the time limit ended the drawing early."""
    seconds: float
    """Duration."""

    def score(self, condition: str, group: Group) -> Score | None:
        """One row; None if nothing was drawn for it."""
        for score in self.scores:
            if (score.condition, score.group) == (condition, group):
                return score
        return None


def evaluate_world(
    pipe: Any,
    bridge: Bridge,
    options: WorldOptions | None = None,
    *,
    concepts: Sequence[Concept] | None = None,
    controls: Mapping[str, Bridge] | None = None,
    evaluator: LoadedEvaluator | None = None,
    drawings: Sprites | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WorldResult:
    """Draw scored scenes in every condition and retrieve their concepts.

    Args:
        pipe: a stock text-to-image pipeline of the emoji world. Its scheduler becomes what the
            bridge expects for the time of the call; a bridge attached to it stays attached.
        concepts: those that the bridge was trained on; the small world of the language by default.
        controls: further bridges to compare, by name, prompted in their own language with the
            same scenes.
        evaluator: the shipped one by default.
        drawings: the vendor's drawings, to score the same scenes drawn right; None leaves it out.
        progress: called with the pictures drawn and their number in all.

    Raises:
        BridgeError: a bridge does not fit, a picture has NaN, the evaluator lacks a concept.
    """
    options = options or WorldOptions()
    concepts = small_world(options.language) if concepts is None else concepts
    evaluator = evaluator or load_evaluator()
    controls = controls or {}
    _check(concepts, evaluator, controls)
    bridges = {BRIDGE: bridge, **controls}
    spoken = {name: _language_of(control) or options.language for name, control in controls.items()}
    started = time.monotonic()
    batches = list(plan(concepts, options, spoken))
    outcomes: list[Outcome] = []
    complete = True
    with prepared(pipe, bridge):
        for cases in batches:
            if options.time_limit and time.monotonic() - started >= options.time_limit:
                complete = False
                break
            pictures = draw_cases(pipe, bridges, cases, options)
            outcomes += judge(evaluator, cases, pictures)
            if progress is not None:
                progress(len(outcomes), sum(map(len, batches)))
    scores = score_outcomes(outcomes)
    if drawings is not None:
        scores += _drawn_right(evaluator, concepts, options.language, drawings)
    return WorldResult(
        options=options,
        concepts=len(evaluator.model.row),
        scores=tuple(scores),
        outcomes=tuple(outcomes),
        evaluator=evaluator.accuracy,
        controls=spoken,
        complete=complete,
        seconds=time.monotonic() - started,
    )


def _language_of(bridge: Bridge) -> str | None:
    return bridge.config.languages[0] if bridge.config.languages else None


def _check(
    concepts: Sequence[Concept], evaluator: LoadedEvaluator, controls: Mapping[str, Bridge]
) -> None:
    known = evaluator.model.row
    unknown = [concept for concept in concepts if concept.codepoints not in known]
    if unknown:
        raise BridgeError(
            f"the evaluator does not know {unknown[0].names['en']} ({unknown[0].codepoints}) and "
            f"{len(unknown) - 1} more; give concepts it was trained on, or another evaluator"
        )
    for name in controls:
        if name in (BACKBONE, BRIDGE, DRAWING):
            raise BridgeError(f"a control may not be called {name!r}; give it another name")


def judge(
    evaluator: LoadedEvaluator, cases: Sequence[Case], pictures: Sequence[Image.Image]
) -> list[Outcome]:
    """Score pictures of any size by what the evaluator sees in them."""
    row = evaluator.model.row
    parts = [
        _crop(picture, box)
        for case, picture in zip(cases, pictures, strict=True)
        for box in case.boxes
    ]
    wanted = [row[concept.codepoints] for case in cases for concept in case.scene.concepts]
    scores = evaluator.model.scores(parts)
    part_ranks = ranks(scores, torch.tensor(wanted)).tolist()
    best = [evaluator.model.config.concepts[i] for i in scores.argmax(dim=1).tolist()]
    palette = _palette()
    outcomes, first = [], 0
    for case, picture in zip(cases, pictures, strict=True):
        last = first + len(case.boxes)
        kept = picture.copy()
        kept.thumbnail((_KEPT_SIDE, _KEPT_SIDE), Image.Resampling.LANCZOS)
        outcomes.append(
            Outcome(
                case=case,
                rank=max(part_ranks[first:last]),
                found=tuple(best[first:last]),
                background=nearest_colour(border_colour(picture), palette),
                picture=kept if case.index == 0 else None,
            )
        )
        first = last
    return outcomes


def _crop(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    width, height = picture.size
    left, top, right, bottom = box
    if box == (0.0, 0.0, 1.0, 1.0):
        return picture
    return picture.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def _palette() -> dict[str, tuple[int, int, int]]:
    return {colour: colour_rgb(colour) for colour in default_colours()}


def score_outcomes(outcomes: Sequence[Outcome]) -> list[Score]:
    """One row for each condition and group that was drawn."""
    found: dict[tuple[str, Group], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.case.condition, outcome.case.group), []).append(outcome)
    order = [*CONDITIONS, *sorted({condition for condition, _ in found} - set(CONDITIONS))]
    return [
        _score(
            condition,
            group,
            torch.tensor([outcome.rank for outcome in found[condition, group]]),
            [o.background == o.case.scene.colours[0] for o in found[condition, group]],
        )
        for condition in order
        for group in GROUPS
        if (condition, group) in found
    ]


def _score(condition: str, group: Group, rank: Tensor, backgrounds: Sequence[bool]) -> Score:
    return Score(
        condition=condition,
        group=group,
        top1=top_k(rank, 1),
        top5=top_k(rank, 5),
        background=Rate(hits=sum(backgrounds), count=len(backgrounds)),
    )


def _drawn_right(
    evaluator: LoadedEvaluator,
    concepts: Sequence[Concept],
    language: str,
    drawings: Sprites,
) -> list[Score]:
    """The same scenes with the vendor's drawings: what the evaluator would say of right ones."""
    scores, palette, row = [], _palette(), evaluator.model.row
    for group in GROUPS:
        scenes = [
            scene
            for concept in concepts
            if group_of(concept, language) == group and concept.codepoints in drawings.pictures
            for scene in scored_singles(concept)
        ]
        if not scenes:
            continue
        pictures = [scene.render(drawings, SIDE) for scene in scenes]
        right = torch.tensor([row[scene.concepts[0].codepoints] for scene in scenes])
        backgrounds = [
            nearest_colour(border_colour(picture), palette) == scene.colours[0]
            for picture, scene in zip(pictures, scenes, strict=True)
        ]
        scores.append(
            _score(DRAWING, group, ranks(evaluator.model.scores(pictures), right), backgrounds)
        )
    return scores
