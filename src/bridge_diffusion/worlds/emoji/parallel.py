"""Captions of scenes in two languages, side by side: what `bdm train-text --parallel` reads."""

from collections.abc import Iterator, Sequence

import numpy as np

from bridge_diffusion.worlds.emoji.captions import background_phrase
from bridge_diffusion.worlds.emoji.concepts import all_concepts, small_world
from bridge_diffusion.worlds.emoji.scenes import DEFAULT_KINDS, draw_scene

_NAME_ONLY, _BACKGROUND_ONLY = 0.25, 0.1


def parallel_captions(
    first: str, second: str, count: int, *, native_to: Sequence[str], seed: int = 0
) -> Iterator[tuple[str, str]]:
    """The same said in two languages: a whole caption, a bare name, or a background.

    Scenes are those of `small_world` of each language of `native_to`, none of them scored, every
    concept as often.
    """
    random = np.random.default_rng(seed)
    wanted = {concept.codepoints for tongue in native_to for concept in small_world(tongue)}
    concepts = [concept for concept in all_concepts() if concept.codepoints in wanted]
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
