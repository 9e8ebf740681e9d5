"""Captions of scenes in the six languages, from the templates that ship with the world.

Names stand bare in every template (no article, no measure word), colours come as whole phrases,
and positions are absolute: so no language needs to inflect anything by the object.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

SINGLE_KINDS = (
    "single",
    "single_small",
    "single_large",
    "single_left",
    "single_right",
    "single_top",
    "single_bottom",
)
PAIR_KINDS = ("pair_left_right", "pair_top_bottom")
KINDS = (*SINGLE_KINDS, *PAIR_KINDS, "gradient_top_bottom")

# Another order of the words for a scene of kind "single": scored only, never trained on.
UNSEEN_SINGLE = {
    "en": "{bg}, {A}",
    "zh": "{A}，{bg}",
    "ja": "{A}、{bg}",
    "ar": "{bg}، {A}",
    "hi": "{A}, {bg}",
    "es": "{bg}, {A}",
}


@cache
def templates() -> dict[str, Any]:
    """The template file: colours, templates, bilingual compositions, literal probes."""
    return json.loads((Path(__file__).parent / "templates.json").read_text(encoding="utf-8"))


def default_colours() -> tuple[str, ...]:
    """The background colours that few emoji share, so that a background can be told apart."""
    return tuple(templates()["default_colors"])


def colour_rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = templates()["colors"][colour]["rgb"]
    return red, green, blue


def background_phrase(language: str, colour: str) -> str:
    """The whole noun phrase, such as "an orange background"."""
    return templates()["colors"][colour]["background"][language]


def caption(language: str, kind: str, names: tuple[str, ...], colours: tuple[str, ...]) -> str:
    """The full caption of a scene.

    Args:
        kind: one of `KINDS`, or "unseen_single" for the word order that is never trained on.
        names: one name, or two for a pair.
        colours: one background colour, or two for a gradient (top, bottom).
    """
    fields = {"A": names[0], "B": names[-1], "bg": background_phrase(language, colours[0])}
    if kind == "unseen_single":
        return UNSEEN_SINGLE[language].format(**fields)
    gradient = [templates()["colors"][colour]["gradient"][language] for colour in colours]
    fields |= {"c1": gradient[0], "c2": gradient[-1]}
    return templates()["templates"][kind][language].format(**fields)


def half_caption(language: str, kind: str, concept_name: str, second: bool, colour: str) -> str:
    """A caption that names one of a pair only, as in prompts of two languages."""
    bilingual = templates()["bilingual"]
    layout = (
        "left_english_right_native" if kind == "pair_left_right" else "top_english_bottom_native"
    )
    if language == "en":
        first_half = bilingual[layout]["english"]
        if not second:
            return first_half.format(A=concept_name, bg=background_phrase("en", colour))
        side = "on the right" if kind == "pair_left_right" else "at the bottom"
        return f"{concept_name} {side}"
    if second:
        return bilingual[layout]["native"][language].format(B=concept_name)
    single = "single_left" if kind == "pair_left_right" else "single_top"
    return caption(language, single, (concept_name,), (colour,))
