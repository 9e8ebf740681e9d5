"""Data that `bdm data prepare` has encoded: read as it is, and refused where the models differ.

PREPARED/
    manifest.json            what the shards were made from: data, filters, models, shapes
    00000.safetensors        "latents", "states", "english" one after the other, and their ends
    report.html, report.json what was dropped, and why
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.backbone import Pipeline
from bridge_diffusion.training.examples import (
    Encoded,
    as_encoded,
    autoencoder_identity,
    english_identity,
    noted_sizes,
    padded_batch,
    text_identity,
)
from bridge_diffusion.training.order import Pick
from bridge_diffusion.training.prepared_folder import FORMAT, MANIFEST, is_prepared, read_manifest
from bridge_diffusion.training.task import Batch

_AGAIN = "run bdm data prepare again with the models that you train with"


class PreparedExamples:
    """The pairs of a prepared folder; `Examples` for training a branch."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        """limit: the first pairs only, as many. BridgeError if a file is missing or damaged."""
        manifest = read_manifest(folder)
        if manifest.get("format") != FORMAT:
            raise BridgeError(f"{folder} was prepared by another version of this library; {_AGAIN}")
        self.folder, self.manifest = folder, manifest
        self._shards = [_Shard(folder / each["file"]) for each in manifest["shards"]]
        every = [(s, i) for s, shard in enumerate(self._shards) for i in range(len(shard.notes))]
        self._places: list[tuple[int, int]] = []
        self.skipped: dict[str, str] = {}
        """Pairs that could not be used: why, by name."""
        for shard, item in every[:limit]:
            note = self._shards[shard].notes[item]
            if "unreadable" in note:
                self.skipped[note["key"]] = note["unreadable"]
            else:
                self._places.append((shard, item))
        if not self._places:
            raise BridgeError(f"{folder} holds no pair; loosen the filters of bdm data prepare")
        self.fingerprint = str(manifest["fingerprint"])
        """Changes with the data, the filters, and the models."""
        self._says_english = any(len(shard.english) > 1 for shard in self._shards)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def positions(self) -> Sequence[int]:
        """Where each example stands among those of the folder."""
        return range(len(self))

    @property
    def weights(self) -> list[float] | None:
        """The shares of the sources, if they have any."""
        return self.manifest["weights"] or None

    @property
    def sources(self) -> np.ndarray:
        """Number of the data set that each example is from."""
        return np.array([self._note(i).get("source", 0) for i in range(len(self))])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each example's latents."""
        return [tuple(self._note(index)["shape"]) for index in range(len(self))]

    def captions(self, index: int) -> list[str]:
        """The captions of an example."""
        return list(self._note(index)["captions"])

    def check(
        self,
        pipe: Pipeline,
        text: NativeTextEncoder,
        *,
        size: int | None = None,
        buckets: bool = False,
    ) -> None:
        """BridgeError unless the folder was prepared with these models, and this size if given."""
        models = self.manifest["models"]
        if models["autoencoder"] != autoencoder_identity(pipe.vae):
            raise BridgeError(
                f"{self.folder} holds latents of another autoencoder than that of --model; {_AGAIN}"
            )
        if models["text_encoder"] != text_identity(text):
            raise BridgeError(
                f"{self.folder} holds states of another text encoder than that of --text-encoder "
                f"or --bridge; {_AGAIN}"
            )
        if self._says_english and models["english"] != english_identity(pipe):
            raise BridgeError(
                f"{self.folder} holds English states of another backbone than --model; {_AGAIN}"
            )
        made = self.manifest["size"]
        if size is not None and size != made:
            raise BridgeError(
                f"{self.folder} was prepared with --size {made}, not {size}; leave --size out, or "
                "prepare the data again"
            )
        if buckets and not self.manifest["buckets"]:
            raise BridgeError(
                f"{self.folder} was prepared without --buckets; prepare the data again with it"
            )

    def batch(self, picks: Sequence[Pick]) -> Batch:
        """Latents, the states of all captions padded to the longest, and the English states."""
        latents, states, english, sizes = [], [], [], []
        for pick in picks:
            number, item = self._places[pick.index]
            shard, note = self._shards[number], self._shards[number].notes[item]
            latents.append(shard.row("latents", item).view(1, *note["shape"]))
            sizes.append(noted_sizes(note))
            text = shard.captions[pick.caption_of(note["captions"])]
            states.append(shard.row("states", text).float())
            if self._says_english:
                said = pick.english_of(note.get("english", ""))
                english.append(shard.row("english", shard.english[said])[0].float())
        return padded_batch(latents, states, english, sizes)

    def encoded(self, batch: Batch) -> Encoded:
        return as_encoded(batch)

    def _note(self, index: int) -> dict[str, Any]:
        shard, item = self._places[index]
        return self._shards[shard].notes[item]


class _Shard:
    """One file of encoded pairs, memory-mapped."""

    def __init__(self, file: Path) -> None:
        try:
            opened = safe_open(file, framework="pt")
            about = json.loads((opened.metadata() or {})["about"])
            self.notes: list[dict[str, Any]] = about["notes"]
            self.captions = _numbers(about["captions"])
            self.english = _numbers(about["english"])
            names = [name for name in opened.keys() if not name.endswith("_ends")]  # noqa: SIM118
            self._rows = {name: opened.get_slice(name) for name in names}
            self._ends = {name: opened.get_tensor(f"{name}_ends").tolist() for name in names}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BridgeError(
                f"{file} is damaged or missing ({error}); run bdm data prepare again"
            ) from error

    def row(self, name: str, item: int) -> Tensor:
        """The numbers of one item."""
        ends = self._ends[name]
        return self._rows[name][(ends[item - 1] if item else 0) : ends[item]]


def prepared_folder(specs: Sequence[str]) -> Path | None:
    """The prepared folder that the user names; None if the data is not prepared.

    BridgeError if there is more than one data set, or an option, beside a prepared one, or if it
    is not whole.
    """
    parsed = [DataSpec.parse(spec) for spec in specs]
    folders = [Path(spec.place).expanduser() for spec in parsed]
    found = [folder for folder in folders if is_prepared(folder)]
    if not found:
        return None
    if not (found[0] / MANIFEST).is_file():
        raise BridgeError(
            f"{found[0]} is not prepared to the end; give the same bdm data prepare again, which "
            "goes on"
        )
    if len(specs) > 1 or parsed[0] != DataSpec(place=parsed[0].place):
        raise BridgeError(
            f"{found[0]} is prepared data, which stands alone and without options: name all data "
            "sets, with their options, to one bdm data prepare"
        )
    return found[0]


def _numbers(texts: Sequence[str]) -> Mapping[str, int]:
    return {text: number for number, text in enumerate(texts)}
