"""How a bridge encodes native text. A branch only understands text encoded as in its training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from bridge_diffusion.errors import BridgeError

SpecialIds = Literal["tokenizer", "release"]
Weights = Literal["applied", "ignored"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoding:
    """How native text becomes embeddings; saved in a bridge's `bridge.json` as a JSON object."""

    family: str
    """Kind of text encoder: a key of `bridge_diffusion.text.families.FAMILIES`."""
    window: int = 52
    """Tokens that pass through the encoder at once, start and end included."""
    max_windows: int = 5
    """Longer prompts are cut, with a warning."""
    padding_mask: bool = True
    """Whether padding is masked, in the text encoder and in the branch's cross-attention."""
    special_ids: SpecialIds = "tokenizer"
    """Where start, end and padding ids come from: the tokenizer, or 101, 102 and 0 set by the
    procedure of the paper's release."""
    weights: Weights = "applied"
    """Whether the weights of the prompt syntax act on the embeddings or are dropped."""
    pooled: bool = False
    """Whether a pooled vector (the first token of the first window) is given too, as SDXL wants.
    Of several models, it is the first one's."""
    models: int = 1
    """How many text models read the same tokens; their hidden states lie side by side."""

    def __post_init__(self) -> None:
        if self.window < 3:
            raise BridgeError(
                f"text encoding: window is {self.window} tokens; it must be at least 3"
            )
        if self.max_windows < 1:
            raise BridgeError(
                f"text encoding: max_windows is {self.max_windows}; it must be at least 1"
            )
        if self.models < 1:
            raise BridgeError(f"text encoding: models is {self.models}; it must be at least 1")
        for name, allowed in (
            ("special_ids", get_args(SpecialIds)),
            ("weights", get_args(Weights)),
        ):
            if getattr(self, name) not in allowed:
                raise BridgeError(
                    f"text encoding: {name} is {getattr(self, name)!r}; "
                    f"use one of {', '.join(allowed)}"
                )

    @property
    def body(self) -> int:
        """Tokens of a prompt that one window holds."""
        return self.window - 2

    @property
    def native_tokens(self) -> int:
        """Length of the longest native sequence: all windows, start and end once."""
        return self.max_windows * self.body + 2

    def to_json(self) -> dict[str, Any]:
        """The encoding as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises `BridgeError` for wrong fields."""
        kinds = {"family": str, "window": int, "max_windows": int, "padding_mask": bool}
        kinds |= {"special_ids": str, "weights": str, "pooled": bool, "models": int}
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise BridgeError(
                f"text encoding: unknown field {unknown[0]!r}; known are {', '.join(kinds)}"
            )
        if "family" not in values:
            raise BridgeError("text encoding: the field 'family' is missing; name the text encoder")
        for name, value in values.items():
            if type(value) is not kinds[name]:
                raise BridgeError(
                    f"text encoding: {name} is {value!r}; it must be of type {kinds[name].__name__}"
                )
        return cls(**values)


RELEASE_ENCODING = TextEncoding(
    family="chinese_clip", padding_mask=False, special_ids="release", weights="ignored"
)
"""The encoding of the paper's release (Qihoo 360, BDM1.0): no mask, fixed ids, weights dropped."""
