"""What is said of a picture: from a text file, or from a JSON object or row of a table.

Texts are composed (Unicode's NFC), as keyboards write them: to a tokenizer, the same letters taken
apart, as some systems store them, are other letters.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge_diffusion.errors import BridgeError

#: Suffixes of text files with a caption a line, the first one that says something counts.
TEXT_SUFFIXES = (".txt", ".caption")
#: Fields that captions are looked for in, in this order.
CAPTION_FIELDS = ("captions", "caption", "text")
_ENGLISH_FIELD = "english"
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


@dataclass(frozen=True, slots=True)
class Said:
    """The texts of one picture; no captions if nothing is said of it."""

    captions: tuple[str, ...] = ()
    """What the branch may read."""
    languages: tuple[str, ...] = ()
    """BCP 47 tag of each caption, "" where none is known; empty where no caption has a tag."""
    english: str = ""
    """What the backbone reads beside a caption."""


def said_in_text(text: str) -> Said:
    """A caption a line; empty lines are left out."""
    lines = unicodedata.normalize("NFC", text).splitlines()
    return Said(tuple(line.strip() for line in lines if line.strip()))


def said_in_record(record: Mapping[str, Any], fields: Sequence[str] = ()) -> Said:
    """The captions of a JSON object, or of a row of a table.

    fields: where the captions stand; if none is given, the first of `CAPTION_FIELDS` that is
    there, or the record itself if all its keys are language tags (and "english"). A field may hold
    a text, a list of texts, or an object of either by language tag. An English text for the
    backbone stands in the field "english".

    BridgeError for a field that holds anything else.
    """
    english = record.get(_ENGLISH_FIELD) or ""
    if not isinstance(english, str):
        raise BridgeError(f"{_ENGLISH_FIELD!r} holds {_kind(english)}; write one text")
    _check_text(english, _ENGLISH_FIELD)
    if fields:
        found = [(name, record.get(name)) for name in fields]
    elif names := [name for name in CAPTION_FIELDS if record.get(name) is not None]:
        found = [(names[0], record[names[0]])]
    else:
        tagged = {tag: text for tag, text in record.items() if tag != _ENGLISH_FIELD}
        by_language = all(_LANGUAGE.fullmatch(tag) for tag in tagged)
        found = [("the captions", tagged)] if tagged and by_language else []
    pairs = [pair for name, value in found for pair in _tagged(value, name)]
    tags = tuple(tag for tag, _ in pairs)
    return Said(
        captions=tuple(text for _, text in pairs),
        languages=tags if any(tags) else (),
        english=" ".join(english.split()),
    )


def in_language(said: Said, wanted: Sequence[str]) -> Said:
    """The captions in one of the languages `wanted`: "zh" also takes "zh-Hant".

    A caption without a tag is taken to be in the first of them.
    """
    languages = said.languages or ("",) * len(said.captions)
    kept = [
        (tag or wanted[0], text)
        for tag, text in zip(languages, said.captions, strict=True)
        if not tag or any(speaks(tag, language) for language in wanted)
    ]
    return Said(tuple(text for _, text in kept), tuple(tag for tag, _ in kept), said.english)


def speaks(tag: str, language: str) -> bool:
    """Whether a tag is a language's own or that of one of its variants."""
    tag, language = tag.lower().replace("_", "-"), language.lower().replace("_", "-")
    return tag == language or tag.startswith(f"{language}-")


def _tagged(value: Any, name: str, tag: str = "") -> Iterable[tuple[str, str]]:
    """Each text in the value of a field, with its language tag."""
    if value is None:
        return
    if isinstance(value, str):
        _check_text(value, name)
        if text := " ".join(unicodedata.normalize("NFC", value).split()):
            yield tag, text
    elif isinstance(value, Mapping) and not tag:
        for key, texts in value.items():
            if not isinstance(key, str) or not _LANGUAGE.fullmatch(key):
                raise BridgeError(f"{name} has a key {key!r}; language tags, as 'zh', are allowed")
            yield from _tagged(texts, f"{name}, {key}", key.replace("_", "-"))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for text in value:
            if text is not None and not isinstance(text, str):
                raise BridgeError(f"{name} holds a list with {_kind(text)}; texts are allowed")
            yield from _tagged(text, name, tag)
    else:
        raise BridgeError(
            f"{name} holds {_kind(value)}; a text, a list of texts, or an object of them by "
            "language tag is allowed"
        )


def _check_text(text: str, name: str) -> None:
    """BridgeError for half a character, which JSON can hold and no file of text can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):x}"
        raise BridgeError(f"{name} holds {half}, half a character; write it whole") from error


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "a truth value"}.get(
        type(value), f"a value of type {type(value).__name__}"
    )
