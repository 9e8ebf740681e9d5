"""Do English plug-ins keep their effect under a native prompt? What is drawn, and what is seen.

Each system (`evaluation.systems`) draws the same series of pictures, from the same noise:

    plain                       scored scenes of native and shared concepts, no plug-in
    plain+PLUGIN                the same with the plug-in on
    plain+controlnet            the same, each with the edges of the vendor's drawing of its scene
    plain+controlnet, other edges   the same, each with the edges of another of these scenes
    THING                       the thing on a coloured background, its plug-in off
    THING+PLUGIN                the same with the plug-in on

Beside them the evaluator is shown the same scenes as the plug-ins' styles have them, drawn by hand:
where it does not know a thing in a style, no plug-in can be blamed.

Everything seen is kept as one list a series, so that what is measured on one prompt stays together;
`evaluation.effects` makes numbers of it. A series that was seen before is not drawn again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image
from torch import nn

from bridge_diffusion.evaluation.drawing import draw
from bridge_diffusion.evaluation.evaluator import LoadedEvaluator
from bridge_diffusion.evaluation.kept import part_key, read_kept, write_kept, write_strip
from bridge_diffusion.evaluation.plan import (
    Case,
    WorldOptions,
    case_seed,
    drawing_order,
    group_of,
    scored_single,
)
from bridge_diffusion.evaluation.plugged import plugged, plugin_hash
from bridge_diffusion.evaluation.systems import Ask, System
from bridge_diffusion.evaluation.world import judge
from bridge_diffusion.worlds.emoji.captions import background_phrase, caption, default_colours
from bridge_diffusion.worlds.emoji.concepts import Concept
from bridge_diffusion.worlds.emoji.edges import edge_f1, edge_map, edge_picture
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, Plugin, Thing
from bridge_diffusion.worlds.emoji.scenes import Scene
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.styles import style_sprites

PLAIN = "plain"
OTHER_EDGES = ", other edges"
SHOWN = 4
"""Pictures of each group, and twice as many of a thing, that are kept to be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How much is drawn beyond what `WorldOptions` say."""

    concepts: int | None = None
    """Concepts of each group, native and shared; None: all of them."""
    things: int = 96
    """Pictures of each thing that a plug-in adds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Pictures of one system under one condition."""

    asks: str
    """`PLAIN`, or the name of a thing."""
    plugin: Plugin | None = None
    """What is on."""
    other_edges: bool = False
    """A ControlNet gets another scene's edges."""

    @property
    def name(self) -> str:
        if self.plugin is None:
            return self.asks
        return f"{self.asks}+{self.plugin.name}" + OTHER_EDGES * self.other_edges


@dataclass(frozen=True, kw_only=True, slots=True)
class Judges:
    """Who looks at the pictures."""

    concepts: LoadedEvaluator
    """Tells what a picture shows."""
    styles: LoadedEvaluator
    """Tells in which style it is drawn."""
    drawings: Sprites
    """The English world's own drawings, whose edges a ControlNet gets."""


def all_series(plugins: Sequence[Plugin] = PLUGINS) -> list[Series]:
    """In the order of drawing: first what others are compared with."""
    things = [plugin for plugin in plugins if plugin.thing is not None]
    off = [Series(asks=plugin.thing.name) for plugin in things if plugin.thing]
    on = [Series(asks=plugin.thing.name, plugin=plugin) for plugin in things if plugin.thing]
    edges = [
        Series(asks=PLAIN, plugin=plugin, other_edges=True)
        for plugin in plugins
        if plugin.kind == "controlnet"
    ]
    plain = [Series(asks=PLAIN, plugin=plugin) for plugin in plugins]
    return [Series(asks=PLAIN), *off, *plain, *edges, *on]


def plain_asks(concepts: Sequence[Concept], options: WorldOptions, amount: Amount) -> list[Ask]:
    """Scored scenes, said whole in one language: the native one, or English in translation."""
    taken: dict[str, int] = {}
    asks = []
    for concept in drawing_order(concepts, options):
        group = group_of(concept, options.language)
        assert group is not None
        taken[group] = taken.get(group, 0) + 1
        if amount.concepts is not None and taken[group] > amount.concepts:
            continue
        for index in range(options.images):
            scene = scored_single(concept, index)
            native = scene.caption(options.language)
            case = Case(
                condition=PLAIN,
                route="",
                group=group,
                scene=scene,
                prompt=native,
                index=index,
                seed=case_seed(options, concept, index),
            )
            asks.append(Ask(case=case, translation=scene.caption("en"), mixed=native))
    return asks


def thing_asks(thing: Thing, options: WorldOptions, amount: Amount) -> list[Ask]:
    """The thing by its trigger, in English; the background beside it in the native language.

    The backgrounds are those of the thing's scored scenes of kind "single", which its plug-in was
    not trained on. A picture is right if the thing is recognised first among all concepts and the
    border has the wanted colour: both languages have to be heard.
    """
    concept, language = thing.concept, options.language
    scenes = [
        scene
        for colour in default_colours()
        if (scene := Scene(kind="single", concepts=(concept,), colours=(colour,))).scored
    ]
    asks = []
    for index in range(amount.things):
        scene = scenes[index % len(scenes)]
        case = Case(
            condition=thing.name,
            route="",
            group="shared",
            scene=scene,
            prompt=background_phrase(language, scene.colours[0]),
            english=thing.trigger,
            index=index,
            seed=case_seed(options, concept, index),
        )
        whole = {
            spoken: caption(spoken, "single", (thing.trigger,), scene.colours)
            for spoken in ("en", language)
        }
        asks.append(Ask(case=case, translation=whole["en"], mixed=whole[language]))
    return asks


def wanted_edges(
    asks: Sequence[Ask], drawings: Sprites, size: int
) -> list[Bool[np.ndarray, "size size"]]:
    """Edges of the vendor's drawing of each scene, a little moved as in training."""
    return [
        edge_map(ask.case.scene.render(drawings, size, np.random.default_rng(ask.case.seed)))
        for ask in asks
    ]


def other_edges(
    edges: Sequence[Bool[np.ndarray, "size size"]],
) -> list[Bool[np.ndarray, "size size"]]:
    """To each scene the edges of one half the list away: another concept."""
    half = len(edges) // 2
    return [*edges[half:], *edges[:half]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What is drawn of each system, who looks, and the folder where all that was seen is kept."""

    concepts: Sequence[Concept]
    """Those that the bridge was trained on."""
    options: WorldOptions
    """How pictures are drawn."""
    amount: Amount
    """How many of them."""
    judges: Judges
    """Who looks at them."""
    plugins: Path | None
    """Where `bdm world plugin --out` made the plug-ins; None: as the package ships them."""
    backbone: nn.Module
    """The UNet that they were made from; no pipeline's own, as pipelines change for a while."""
    folder: Path
    """`plugins-LANGUAGE.json`, and the pictures that are shown."""
    chosen: Sequence[Plugin] = PLUGINS
    """Those that are drawn; what was seen of others stays."""

    def run(
        self, system: System, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """Draw the series of a system that have not been seen; gives the whole document.

        The time limit of the options ends it between two series; the same call goes on.

        Raises:
            BridgeError: a plug-in is missing or does not fit, a picture has NaN, the folder holds
                measurements of other options.
        """
        started = time.monotonic()
        document = self.document()
        asks = self.asks()
        for style in {plugin.style for plugin in self.chosen if plugin.style}:
            if style not in document["drawings"]:
                document["drawings"][style] = self._ranks_of_drawings(style, asks[PLAIN])
        of_system = document["systems"].setdefault(system.name, {})
        wanted = all_series(self.chosen)
        keys = [self._key(system, series) for series in wanted]
        total = sum(len(asks[series.asks]) for series in wanted)
        done = 0
        for series, key in zip(wanted, keys, strict=True):
            if of_system.get(series.name, {}).get("of") != key:
                limit = self.options.time_limit
                if limit is not None and time.monotonic() - started >= limit:
                    break
                of_system[series.name] = {"of": key, **self._see(system, series, asks)}
                write_kept(self._path, document)
            done += len(asks[series.asks])
            if progress is not None:
                progress(done, total)
        return document

    def asks(self) -> dict[str, list[Ask]]:
        """By `Series.asks`."""
        things = [plugin.thing for plugin in PLUGINS if plugin.thing is not None]
        return {
            PLAIN: plain_asks(self.concepts, self.options, self.amount),
            **{thing.name: thing_asks(thing, self.options, self.amount) for thing in things},
        }

    def document(self) -> dict[str, Any]:
        """What was seen so far, of this and other systems."""
        asks = self.asks()
        units = {name: [ask.case.concept.codepoints for ask in some] for name, some in asks.items()}
        described = {
            "options": self._described(),
            "units": units,
            "groups": [ask.case.group for ask in asks[PLAIN]],
            "style_evaluator": self.judges.styles.accuracy,
        }
        return {"systems": {}, "drawings": {}, **read_kept(self._path, described)}

    @property
    def _path(self) -> Path:
        return self.folder / f"plugins-{self.options.language}.json"

    def _described(self) -> dict[str, Any]:
        free = ("time_limit", "batch_size", "conditions")
        options = {name: getattr(self.options, name) for name in self.options.__slots__}
        amount = {name: getattr(self.amount, name) for name in self.amount.__slots__}
        return {**{k: v for k, v in options.items() if k not in free}, **amount}

    def _key(self, system: System, series: Series) -> str:
        on = [] if series.plugin is None else [plugin_hash(series.plugin, self.plugins)]
        return part_key(system.identity, *on)

    def _ranks_of_drawings(self, style: str, asks: Sequence[Ask]) -> list[int]:
        """What the evaluator makes of the scenes drawn in a style by hand: more no plug-in gets."""
        cases = [ask.case for ask in asks]
        sprites = style_sprites(style)
        pictures = [
            case.scene.render(sprites, 64, np.random.default_rng(case.seed)) for case in cases
        ]
        return [outcome.rank for outcome in judge(self.judges.concepts, cases, pictures)]

    def _see(
        self, system: System, series: Series, asks: dict[str, list[Ask]]
    ) -> dict[str, list[Any]]:
        some = asks[series.asks]
        pictures = list(self._drawn(system, series, some))
        shown = shown_positions([ask.case.group for ask in some], series.asks)
        path = strip_path(self.folder, self.options.language, system.name, series.name)
        write_strip(path, [pictures[i] for i in shown])
        outcomes = judge(self.judges.concepts, [ask.case for ask in some], pictures)
        styles = self.judges.styles.model
        likely = styles.scores(pictures).softmax(dim=1)
        seen: dict[str, list[Any]] = {
            "rank": [outcome.rank for outcome in outcomes],
            "background": [
                int(outcome.background == ask.case.scene.colours[0])
                for outcome, ask in zip(outcomes, some, strict=True)
            ],
            **{
                style: [round(p, 4) for p in likely[:, row].tolist()]
                for style, row in styles.row.items()
            },
        }
        if series.plugin is not None and series.plugin.kind == "controlnet":
            edges = wanted_edges(some, self.judges.drawings, pictures[0].width)
            seen["edge_f1"] = [
                round(edge_f1(edge_map(picture), wanted), 4)
                for picture, wanted in zip(pictures, edges, strict=True)
            ]
        return seen

    def _drawn(self, system: System, series: Series, asks: Sequence[Ask]) -> Iterator[Image.Image]:
        plugin, pipe = series.plugin, system.pipe
        if plugin is None:
            yield from self._batches(system, pipe, asks, None)
            return
        lines = None
        if plugin.kind == "controlnet":
            size = pipe.unet.config.sample_size * pipe.vae_scale_factor
            lines = wanted_edges(asks, self.judges.drawings, size)
            lines = other_edges(lines) if series.other_edges else lines
        with plugged(plugin, self.plugins, pipe, self.backbone) as changed:
            yield from self._batches(system, changed, asks, lines)

    def _batches(
        self,
        system: System,
        pipe: Any,
        asks: Sequence[Ask],
        lines: Sequence[Bool[np.ndarray, "size size"]] | None,
    ) -> Iterator[Image.Image]:
        size = self.options.batch_size
        for first in range(0, len(asks), size):
            some = asks[first : first + size]
            with system.reading(pipe, some) as inputs:
                if lines is not None:
                    images = [edge_picture(each) for each in lines[first : first + size]]
                    inputs = {**inputs, "image": images}
                yield from draw(pipe, inputs, [ask.case for ask in some], self.options)


def shown_positions(groups: Sequence[str], asks: str) -> list[int]:
    """Which pictures of a series are shown: the first of each group, or the first of a thing."""
    if asks != PLAIN:
        return list(range(min(2 * SHOWN, len(groups))))
    return [
        position
        for group in ("native", "shared")
        for position in [i for i, each in enumerate(groups) if each == group][:SHOWN]
    ]


def strip_path(folder: Path, language: str, system: str, series: str) -> Path:
    """Where the shown pictures of a series are kept."""
    plain = series.replace("+", "-").replace(OTHER_EDGES, "-other")
    return folder / "strips" / f"{language}-{system.replace(':', '-')}-{plain}.png"
