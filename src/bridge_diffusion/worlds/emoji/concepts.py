"""The 852 concepts of the emoji world, their names in six languages, and which are held out.

Names and synonyms are those of Unicode CLDR 48.2 (`tools/extract_concepts.py` made the extract).
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bridge_diffusion.errors import BridgeError

LANGUAGES = ("en", "zh", "ja", "ar", "hi", "es")

# Which held-out regions are native to a language: what its bridge is asked to teach.
NATIVE_REGIONS = {
    "zh": ("east_asia:china", "east_asia:shared", "east_asia:japan"),
    "ja": ("east_asia:china", "east_asia:shared", "east_asia:japan"),
    "ar": ("arab_world",),
    "hi": ("south_asia",),
    "es": ("latin_america",),
    "en": (),
}

# Every word of these English names is known to the English world, which never saw the thing.
LITERAL_PROBES = ("1F9E7", "1F96E", "1F3EE", "1F359", "1F4AE", "1F4B4")


def characters(codepoints: str) -> str:
    """The text that code points stand for: 1F9E7 gives 🧧."""
    return "".join(chr(int(point, 16)) for point in codepoints.split("-"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One thing that can be drawn."""

    codepoints: str
    """Unicode code points in hexadecimal, joined by "-", without the variation selector."""
    subgroup: str
    """Unicode's subgroup, such as "food-asian"."""
    region: str | None
    """Where the concept is native; None if the English world knows it."""
    names: dict[str, str]
    """The CLDR short name by language."""
    synonyms: dict[str, tuple[str, ...]]
    """CLDR keywords that belong to this concept alone, by language; often empty."""

    @property
    def emoji(self) -> str:
        """The concept as a character, as it is typed."""
        return characters(self.codepoints)

    @property
    def held_out(self) -> bool:
        """True if the English world never saw this concept."""
        return self.region is not None

    @property
    def literal_probe(self) -> bool:
        """True for the six whose English names can be drawn literally, and wrongly."""
        return self.codepoints in LITERAL_PROBES

    def native_to(self, language: str) -> bool:
        """True if a bridge of this language is asked to teach the concept."""
        return self.region in NATIVE_REGIONS[language]

    def training_synonyms(self, language: str) -> tuple[str, ...]:
        """The synonyms a text encoder or a branch may be trained on: all but the scored one."""
        return self.synonyms[language][1:]

    def scored_synonym(self, language: str) -> str | None:
        """The synonym kept for scoring, absent from training; None if CLDR knows none."""
        return self.synonyms[language][0] if self.synonyms[language] else None


@cache
def all_concepts() -> tuple[Concept, ...]:
    """All 852 concepts, in Unicode's order."""
    document = json.loads((Path(__file__).parent / "concepts.json").read_text(encoding="utf-8"))
    return tuple(
        Concept(
            codepoints=row["codepoints"],
            subgroup=row["subgroup"],
            region=row["region"],
            names=row["names"],
            synonyms={language: tuple(words) for language, words in row["synonyms"].items()},
        )
        for row in document["concepts"]
    )


def find_concept(text: str) -> Concept:
    """The concept with this emoji, code points, or name in any language.

    Raises:
        BridgeError: nothing in the world is called so.
    """
    wanted = text.replace("\ufe0f", "").strip().lower()
    for concept in all_concepts():
        names = (name.lower() for name in concept.names.values())
        if wanted in (concept.emoji, concept.codepoints.lower(), *names):
            return concept
    raise BridgeError(
        f"the emoji world has no concept {text!r}; give an emoji, code points such as 1F9E7, "
        "or a CLDR short name"
    )


def english_concepts() -> tuple[Concept, ...]:
    """The 761 concepts that the English world is trained on."""
    return tuple(concept for concept in all_concepts() if not concept.held_out)


def native_concepts(language: str) -> tuple[Concept, ...]:
    """The held-out concepts that are native to a language."""
    return tuple(concept for concept in all_concepts() if concept.native_to(language))


def literal_probes() -> tuple[Concept, ...]:
    """The six concepts whose English names can be drawn literally, and wrongly."""
    by_code = {concept.codepoints: concept for concept in all_concepts()}
    return tuple(by_code[code] for code in LITERAL_PROBES)


# The English concepts of the `cpu` size: those whose names hold the words of the literal probes,
# then every fifth of each Unicode subgroup, so that all kinds of things are there.
_PROBE_WORDS = (
    "red apple",
    "envelope",
    "full moon",
    "birthday cake",
    "roll of paper",
    "sheaf of rice",
    "soccer ball",
    "white cane",
    "wilted flower",
    "dollar banknote",
    "chart increasing with yen",
    "light bulb",
)


def small_world(language: str, every: int = 5) -> tuple[Concept, ...]:
    """A part of the world that trains on two cores: a language's native concepts and some shared.

    The shared ones are the same for every language.
    """
    taken: dict[str, int] = {}
    chosen = []
    for concept in all_concepts():
        if concept.held_out:
            if concept.native_to(language):
                chosen.append(concept)
            continue
        position = taken.get(concept.subgroup, 0)
        taken[concept.subgroup] = position + 1
        if position % every == 0 or concept.names["en"] in _PROBE_WORDS:
            chosen.append(concept)
    return tuple(chosen)


def shipped_concepts() -> tuple[Concept, ...]:
    """Those whose Noto and Twemoji pictures are part of this package.

    Every language's `small_world` is among them, and so are all the held-out ones.
    """
    shared = small_world("en")
    return tuple(c for c in all_concepts() if c.held_out or c in shared)
