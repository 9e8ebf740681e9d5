"""Captions of scenes in two languages, side by side: what `bdm train-text --parallel` reads."""

from collections.abc import Iterator

import numpy as np

from bridge_diffusion.worlds.emoji.captions import background_phrase
from bridge_diffusion.worlds.emoji.concepts import small_world
from bridge_diffusion.worlds.emoji.scenes import DEFAULT_KINDS, draw_scene

_NAME_ONLY, _BACKGROUND_ONLY = 0.25, 0.1


def parallel_captions(
    first: str, second: str, count: int, *, native_to: str, seed: int = 0
) -> Iterator[tuple[str, str]]:
    """The same said in two languages: a whole caption, a bare name, or a background.

    Scenes are those of `small_world(native_to)`, none of them scored, every concept as often.
    """
    random, concepts = np.random.default_rng(seed), small_world(native_to)
    for _ in range(count):
        scene = draw_scene(concepts, DEFAULT_KINDS, random)
        draw, single = random.random(), len(scene.concepts) == 1
        if single and draw < _NAME_ONLY:
            names = scene.concepts[0].names
            yield names[first], names[second]
        elif single and draw < _NAME_ONLY + _BACKGROUND_ONLY:
            colour = scene.colours[0]
            yield background_phrase(first, colour), background_phrase(second, colour)
        else:
            yield scene.caption(first), scene.caption(second)
