"""The demonstration: Chinese prompts, beside what the English model makes of them.

Nothing is chosen by hand: a fixed list of prompts, the first seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.worlds.emoji.captions import caption
from bridge_diffusion.worlds.emoji.concepts import find_concept, literal_probes
from bridge_diffusion.worlds.emoji.labels import labelled_grid

COLUMNS = ("Chinese prompt, bridge", "the same prompt, English model", "translated, English model")

# After the six literal probes: concepts the English world never saw, then two that it knows.
_NATIVE = (
    "dumpling",
    "panda",
    "sushi",
    "dragon face",
    "bubble tea",
    "fortune cookie",
    "chopsticks",
    "kimono",
    "shinto shrine",
    "abacus",
)
_SHARED = ("red apple", "automobile")
_COLOURS = ("light_blue", "pink", "green", "blue", "purple", "orange")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPrompt:
    """One row of the demonstration."""

    native: str
    """The Chinese prompt."""
    english: str
    """Its translation, from the same template and the CLDR names."""


def demo_prompts() -> tuple[DemoPrompt, ...]:
    """The fixed list of prompts."""
    concepts = (*literal_probes(), *map(find_concept, (*_NATIVE, *_SHARED)))
    prompts = []
    for index, concept in enumerate(concepts):
        colours = (_COLOURS[index % len(_COLOURS)],)
        native, english = (
            caption(language, "single", (concept.names[language],), colours)
            for language in ("zh", "en")
        )
        prompts.append(DemoPrompt(native=native, english=english))
    return tuple(prompts)


def draw_demo(
    pipe: Any, bridge: Bridge, *, steps: int = 25, guidance: float = 5.0, seed: int = 0
) -> Image.Image:
    """The labelled grid: a row a prompt, a column a way to draw it, one seed for all."""
    pipe.set_progress_bar_config(disable=True)
    prompts = demo_prompts()
    native = [prompt.native for prompt in prompts]

    def draw(inputs: dict[str, Any]) -> Sequence[Image.Image]:
        generators = [torch.Generator("cpu").manual_seed(seed) for _ in prompts]
        return pipe(
            **inputs,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        ).images

    as_it_is = draw({"prompt": native})
    translated = draw({"prompt": [prompt.english for prompt in prompts]})
    bridge.attach(pipe)
    try:
        bridged = draw(bridge.prompt(native))
    finally:
        bridge.detach()
    rows = [
        (f"{prompt.native}\n{prompt.english}", pictures)
        for prompt, *pictures in zip(prompts, bridged, as_it_is, translated, strict=True)
    ]
    return labelled_grid(COLUMNS, rows, blocks=2)
