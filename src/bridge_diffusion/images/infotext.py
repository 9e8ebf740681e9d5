"""Infotext: the text that AUTOMATIC1111's web UI writes beside a picture, read and written.

The layout is the prompt, then a line that begins with "Negative prompt: ", then one line of
"Key: value" pairs separated by commas. A value with a comma, a colon, a quote or a line break
is a JSON string (as in that program's `infotext_utils.py`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NEGATIVE = "Negative prompt:"
# A key is a word of letters, digits, spaces, "-" and "/"; a value is a JSON string or ends at ",".
_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)', re.DOTALL)
_KEY = re.compile(r"\w[\w \-/]+")
# Fewer pairs than this on the last line, and it is a line of the prompt.
_FEWEST_PARAMETERS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Infotext:
    """What an infotext says."""

    prompt: str = ""
    """The English prompt; may have several lines."""
    negative_prompt: str = ""
    """The English negative prompt; may have several lines."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The pairs of the last line, in their order."""


def format_infotext(info: Infotext) -> str:
    """Write an infotext as one string.

    At least three parameters are needed for `parse_infotext` (and the web UI) to find them again.
    """
    lines = [info.prompt] if info.prompt else []
    if info.negative_prompt:
        lines.append(f"{_NEGATIVE} {info.negative_prompt}")
    lines.append(", ".join(_pair(key, value) for key, value in info.parameters.items()))
    return "\n".join(lines)


def parse_infotext(text: str) -> Infotext:
    """Read an infotext, from this program or from another; any text is accepted.

    Spaces at the ends of a prompt's lines are not kept, and a prompt with a line that begins with
    "Negative prompt:" cannot be told from a negative prompt: both are the format's own limits.
    """
    lines = text.strip().split("\n")
    matches = _PARAMETER.findall(lines[-1])
    parameters = {key: _unquote(value) for key, value in matches}
    if len(matches) < _FEWEST_PARAMETERS:
        parameters = {}
    else:
        lines = lines[:-1]
    prompt: list[str] = []
    negative: list[str] = []
    current = prompt
    for line in (line.strip() for line in lines):
        if line.startswith(_NEGATIVE):
            current = negative
            line = line.removeprefix(_NEGATIVE).strip()
        current.append(line)
    return Infotext(
        prompt="\n".join(prompt).strip(),
        negative_prompt="\n".join(negative).strip(),
        parameters=parameters,
    )


def _pair(key: str, value: str) -> str:
    assert _KEY.fullmatch(key), f"{key!r} cannot be a key of an infotext"
    return f"{key}: {_quote(value)}"


def _quote(value: str) -> str:
    plain = value and not any(mark in value for mark in ',:\n"') and value == value.strip()
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquote(value: str) -> str:
    value = value.strip()
    if not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        unquoted = json.loads(value)
    except json.JSONDecodeError:
        return value
    return unquoted if isinstance(unquoted, str) else value
