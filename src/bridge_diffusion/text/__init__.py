"""Text: prompt syntax, windows, native text encoders, and the English side of a pipeline."""

from bridge_diffusion.text.encoding import RELEASE_ENCODING, TextEncoding
from bridge_diffusion.text.english import EnglishEmbeddings, encode_english
from bridge_diffusion.text.native import NativeEmbeddings, NativeTextEncoder
from bridge_diffusion.text.syntax import WeightedPiece, parse_prompt

__all__ = [
    "RELEASE_ENCODING",
    "EnglishEmbeddings",
    "NativeEmbeddings",
    "NativeTextEncoder",
    "TextEncoding",
    "WeightedPiece",
    "encode_english",
    "parse_prompt",
]
