"""From what the user names to a data set."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bridge_diffusion.data.folder import PairFolder
from bridge_diffusion.data.pairs import (
    FirstPairs,
    PairDataset,
    left_out,
    pixel_hash,
)
from bridge_diffusion.data.shards import TarShards, tars_at
from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.data.tables import (
    HUB_PREFIX,
    is_saved_dataset,
    open_table,
    parquet_files,
)
from bridge_diffusion.data.views import InLanguages, MixedPairs, Source
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.prepared_folder import is_prepared

_log = logging.getLogger(__name__)

_WORLD_WORDS = ("all", "native", "english", "shuffled")
_SCENES = 50_000  # of the emoji world, where no limit is given
_SCENES_IN_FINGERPRINT = 64


def open_data(specs: Sequence[str], size: int, seed: int, limit: int | None = None) -> PairDataset:
    """Open what the user named: one data set, or several as a `MixedPairs`.

    As `open_dataset`, for each; the limit is that of each. BridgeError also where some have a
    weight and others have none.
    """
    if len(specs) == 1:
        return open_dataset(specs[0], size, seed, limit)
    parsed = [DataSpec.parse(spec) for spec in specs]
    if len({spec.weight is None for spec in parsed}) > 1:
        without = next(spec.place for spec in parsed if spec.weight is None)
        raise BridgeError(f"--data {without} has no weight and others have one: weigh all or none")
    return MixedPairs(
        [
            Source(spec.place, open_dataset(text, size, seed, limit), spec.weight)
            for text, spec in zip(specs, parsed, strict=True)
        ]
    )


def open_dataset(text: str, size: int, seed: int, limit: int | None = None) -> PairDataset:
    """Open captioned pictures, or the embedded world's scenes.

    text: a `DataSpec`: a folder, tars, a Hugging Face dataset, or "emoji:LANGUAGE" for scenes of
    the emoji world ("emoji:zh": the concepts that train on two cores), with words after it that
    change them: "all" (all concepts, drawn with the extra `world`), "native" (those alone that are
    held out as native to the language), and two controls, "english"
    (the same scenes with English captions) and "shuffled" (each with the caption of another
    scene), as in "emoji:zh:all:english".
    size: side in pixels of scenes that are drawn to order; seed: which scenes; limit: the first
    pairs only, as many. BridgeError if there is no such data.
    """
    if limit is not None and limit < 1:
        raise BridgeError(f"the limit is {limit} pairs, it must be 1 or more")
    spec = DataSpec.parse(text)
    if spec.streaming:
        raise BridgeError(
            f"{spec.place} cannot be streamed: pairs are read in any order, so that a run can be "
            "continued exactly; leave streaming out, and it is fetched once"
        )
    if is_prepared(Path(spec.place).expanduser()):
        raise BridgeError(
            f"{spec.place} is prepared data, without pictures: it can only be given to bdm train"
        )
    world, separator, language = spec.place.partition(":")
    if separator and world == "emoji":
        return _emoji_scenes(language, size, seed, limit or _SCENES)
    pairs = _open_pairs(spec)
    _tell_left_out(spec.place, pairs)
    if spec.languages:
        pairs = InLanguages(pairs, spec.languages)
    if limit is None or limit >= len(pairs):
        return pairs
    return FirstPairs(pairs, limit)


def _open_pairs(spec: DataSpec) -> PairDataset:
    folder = Path(spec.place).expanduser()
    is_hub = spec.place.startswith(HUB_PREFIX)
    if is_hub or parquet_files(spec.place) or (folder.is_dir() and is_saved_dataset(folder)):
        return open_table(
            spec.place,
            split=spec.split,
            config=spec.config,
            fields=spec.caption_fields,
            picture=spec.image,
        )
    for name in ("split", "config", "image"):
        if getattr(spec, name):
            raise BridgeError(
                f"--data {spec.place},{name}=... is for Hugging Face datasets; this is none"
            )
    if tars := tars_at(spec.place):
        return TarShards(tars, fields=spec.caption_fields)
    if folder.is_dir():
        return PairFolder(folder, fields=spec.caption_fields)
    raise BridgeError(
        f"no data at {spec.place!r}: give a folder of pictures with .txt captions, tars of them, a "
        "Hugging Face dataset (its folder, parquet files or hf:OWNER/NAME), or emoji:zh"
    )


def _tell_left_out(place: str, pairs: PairDataset) -> None:
    found = left_out(pairs)
    if damaged := [name for name in found if name.endswith(".tar")]:
        _log.warning(
            "%d tars of %s are damaged and read in part, such as %s (%s)",
            len(damaged),
            place,
            damaged[0],
            found[damaged[0]],
        )
    others = [name for name in found if not name.endswith(".tar")]
    if others:
        _log.warning(
            "%d of %d pictures in %s are left out, such as %s (%s); where it is the caption, put a "
            ".txt file of the same name beside each",
            len(others),
            len(others) + len(pairs),
            place,
            others[0],
            found[others[0]],
        )


def _emoji_scenes(language: str, size: int, seed: int, count: int) -> PairDataset:
    from bridge_diffusion.worlds.emoji.concepts import native_concepts
    from bridge_diffusion.worlds.emoji.scenes import EmojiScenes, ShuffledCaptions

    language, *words = language.split(":")
    if unknown := [word for word in words if word not in _WORLD_WORDS]:
        raise BridgeError(
            f"no {unknown[0]!r} scenes of the emoji world: after emoji:{language} there may be "
            f"{', '.join(_WORLD_WORDS)}"
        )
    make = EmojiScenes.whole if "all" in words else EmojiScenes.shipped
    scenes = make(language=language, size=size, seed=seed, count=count)
    if "native" in words:
        if not (native := native_concepts(language)):
            raise BridgeError(
                f"nothing in the emoji world is native to {language!r}: leave out :native"
            )
        scenes = replace(scenes, concepts=native)
    if "english" in words:
        scenes = replace(scenes, language="en")
    pairs = ShuffledCaptions(scenes) if "shuffled" in words else scenes
    # Scenes are drawn by one rule from one seed: the first ones tell them from any others.
    few = FirstPairs(pairs, min(_SCENES_IN_FINGERPRINT, len(pairs)), "")
    own = f"emoji scenes in {language}, {size} pixels, seed {seed}, {pixel_hash(few)}"
    return FirstPairs(pairs, len(pairs), own)
