"""A data set in the user's words: PLACE,option=value,..."""

import math
from dataclasses import dataclass, fields

from bridge_diffusion.errors import BridgeError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Where data is, and how it is read.

    In one word: `photos`, `shards/{000..009}.tar,weight=0.7`,
    `hf:owner/name,split=test,captions=zh+caption`.
    """

    place: str
    """Folder, tar, pattern of tars, parquet file, hf:OWNER/NAME, or emoji:zh."""
    weight: float | None = None
    """How often its pairs are drawn beside other data, as a share: 0.7 and 0.3, or 7 and 3. None:
    as often as the others' pairs."""
    language: str = ""
    """Only captions in these languages, joined by "+"; captions without a tag count as in the
    first. "": all captions."""
    captions: str = ""
    """Fields or columns of the captions, joined by "+". "": those with the usual names."""
    image: str = ""
    """Column of the picture. "": the one with a usual name."""
    split: str = ""
    """Split of a data set that has several; train if none is given."""
    config: str = ""
    """Configuration of a data set of the hub that has several."""
    streaming: bool = False
    """Read the hub's data set without keeping it: refused, as pairs are read in any order."""

    @classmethod
    def parse(cls, text: str) -> "DataSpec":
        """From the command line. A comma that begins no option is part of the place.

        BridgeError for an option's value that is not allowed, or one given twice.
        """
        names = {field.name for field in fields(cls)} - {"place"}
        place, *parts = text.split(",")
        given: dict[str, str] = {}
        while parts:
            name, equals, value = parts[0].partition("=")
            if equals and name in names:
                if name in given:
                    raise BridgeError(f"--data {text} says {name} twice; say it once")
                given[name] = value
            elif given:
                raise BridgeError(
                    f"--data {text} has no option {parts[0]!r}; after the place there may be "
                    f"{', '.join(f'{name}=...' for name in sorted(names))}"
                )
            else:
                place = f"{place},{parts[0]}"
            del parts[0]
        if not place:
            raise BridgeError(f"--data {text!r} names no data; give a folder of captioned pictures")
        streaming = given.pop("streaming", "no")
        if streaming not in ("yes", "no"):
            raise BridgeError(f"--data {text} has streaming={streaming}; write yes or no")
        weight = _weight(text, given.pop("weight")) if "weight" in given else None
        return cls(place=place, weight=weight, streaming=streaming == "yes", **given)

    @property
    def caption_fields(self) -> tuple[str, ...]:
        return tuple(filter(None, self.captions.split("+")))

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(filter(None, self.language.split("+")))


def _weight(text: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise BridgeError(f"--data {text} has weight={value}; a number above 0 is allowed")
    return weight
