"""The prompt syntax of the Stable Diffusion community: text with weights.

`(x)` weighs 1.1, `[x]` weighs 1/1.1, `(x:1.3)` weighs 1.3; nested weights multiply; a backslash
makes the next bracket (or backslash) literal; an opening bracket that is never closed reaches to
the end; a closing one that was never opened is plain text. Native prompts may use the full-width
signs of an input method: `（词：1.3）`, `［词］`.
"""

import math
import re
import unicodedata
from dataclasses import dataclass

ROUND_WEIGHT = 1.1
SQUARE_WEIGHT = 1 / 1.1
LARGEST_WEIGHT = 1e6
"""Weights are limited to plus and minus this, so that nesting can never reach infinity."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_ASCII = re.compile(rf"\\[\\()\[\]]|:\s*({_NUMBER})\s*\)|[()\[\]]", re.ASCII)
_FULL_WIDTH_NUMBER = r"[+\-＋－]?(?:\d+[.．]?\d*|[.．]\d+)"
_FULL_WIDTH = re.compile(
    rf"\\[\\()\[\]（）［］]|[:：]\s*({_FULL_WIDTH_NUMBER})\s*[)）]|[()\[\]（）［］]"
)
_TO_ASCII = str.maketrans("（）［］", "()[]")


@dataclass(frozen=True, slots=True)
class WeightedPiece:
    """A stretch of a prompt that shares one weight."""

    text: str
    """The text, without the signs of the syntax."""
    weight: float
    """How strongly it counts; 1 is neutral. Always finite."""


def parse_prompt(text: str, *, full_width: bool) -> list[WeightedPiece]:
    """Split a prompt into pieces of equal weight. Reads every string; never raises.

    `full_width` says whether full-width brackets, colons and digits count as syntax too. An empty
    prompt gives one empty piece of weight 1. Neighbouring pieces of equal weight are joined.
    """
    pieces: list[tuple[str, float]] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def scale_from(start: int, factor: float) -> None:
        pieces[start:] = [(words, _limited(weight * factor)) for words, weight in pieces[start:]]

    end_of_last = 0
    for sign in (_FULL_WIDTH if full_width else _ASCII).finditer(text):
        pieces.append((text[end_of_last : sign.start()], 1.0))
        end_of_last = sign.end()
        raw, number = sign.group(), sign.group(1)
        bracket = raw.translate(_TO_ASCII)
        if raw.startswith("\\"):
            pieces.append((raw[1:], 1.0))
        elif bracket == "(":
            open_round.append(len(pieces))
        elif bracket == "[":
            open_square.append(len(pieces))
        elif number is not None and open_round:
            scale_from(open_round.pop(), _limited(float(unicodedata.normalize("NFKC", number))))
        elif bracket == ")" and open_round:
            scale_from(open_round.pop(), ROUND_WEIGHT)
        elif bracket == "]" and open_square:
            scale_from(open_square.pop(), SQUARE_WEIGHT)
        else:
            pieces.append((raw, 1.0))
    pieces.append((text[end_of_last:], 1.0))
    for start in open_round:
        scale_from(start, ROUND_WEIGHT)
    for start in open_square:
        scale_from(start, SQUARE_WEIGHT)
    return _joined(pieces)


def _limited(weight: float) -> float:
    return math.copysign(min(abs(weight), LARGEST_WEIGHT), weight)


def _joined(pieces: list[tuple[str, float]]) -> list[WeightedPiece]:
    joined: list[WeightedPiece] = []
    for text, weight in pieces:
        if not text:
            continue
        if joined and joined[-1].weight == weight:
            joined[-1] = WeightedPiece(joined[-1].text + text, weight)
        else:
            joined.append(WeightedPiece(text, weight))
    return joined or [WeightedPiece("", 1.0)]
