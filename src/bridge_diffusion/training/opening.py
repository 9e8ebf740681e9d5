"""From what the user names to a data set."""

import logging
from dataclasses import replace
from pathlib import Path

from bridge_diffusion.data.folder import PairFolder
from bridge_diffusion.data.pairs import FirstPairs, PairDataset, pixel_hash
from bridge_diffusion.errors import BridgeError

_log = logging.getLogger(__name__)

_WORLD_WORDS = ("all", "english", "shuffled")
_SCENES = 50_000  # of the emoji world, where no limit is given
_SCENES_IN_FINGERPRINT = 64


def open_dataset(spec: str, size: int, seed: int, limit: int | None = None) -> PairDataset:
    """Open a folder of pictures with .txt captions, or the embedded world's scenes.

    spec: a folder, or "emoji:LANGUAGE" for scenes of the emoji world ("emoji:zh": the concepts
    that train on two cores), with words after it that change them: "all" (all concepts, drawn with
    the extra `world`), and two controls, "english" (the same scenes with English captions) and
    "shuffled" (each with the caption of another scene), as in "emoji:zh:all:english".
    size: side in pixels of scenes that are drawn to order; seed: which scenes; limit: the first
    pairs only, as many. BridgeError if there is no such data.
    """
    if limit is not None and limit < 1:
        raise BridgeError(f"the limit is {limit} pairs, it must be 1 or more")
    world, separator, language = spec.partition(":")
    if separator and world == "emoji":
        return _emoji_scenes(language, size, seed, limit or _SCENES)
    if not Path(spec).is_dir():
        raise BridgeError(
            f"no data at {spec!r}: give a folder of pictures with .txt captions, or emoji:zh"
        )
    pairs = PairFolder(Path(spec))
    if without := pairs.without_caption:
        _log.warning(
            "%d of %d pictures in %s have no caption and are left out, such as %s: put a .txt "
            "file of the same name beside each",
            len(without),
            len(without) + len(pairs),
            spec,
            without[0],
        )
    if limit is None or limit >= len(pairs):
        return pairs
    return FirstPairs(pairs, limit, pairs.fingerprint)


def _emoji_scenes(language: str, size: int, seed: int, count: int) -> PairDataset:
    from bridge_diffusion.worlds.emoji.scenes import EmojiScenes, ShuffledCaptions

    language, *words = language.split(":")
    if unknown := [word for word in words if word not in _WORLD_WORDS]:
        raise BridgeError(
            f"no {unknown[0]!r} scenes of the emoji world: after emoji:{language} there may be "
            f"{', '.join(_WORLD_WORDS)}"
        )
    make = EmojiScenes.whole if "all" in words else EmojiScenes.shipped
    scenes = make(language=language, size=size, seed=seed, count=count)
    if "english" in words:
        scenes = replace(scenes, language="en")
    pairs = ShuffledCaptions(scenes) if "shuffled" in words else scenes
    # Scenes are drawn by one rule from one seed: the first ones tell them from any others.
    few = FirstPairs(pairs, min(_SCENES_IN_FINGERPRINT, len(pairs)), "")
    own = f"emoji scenes in {language}, {size} pixels, seed {seed}, {pixel_hash(few)}"
    return FirstPairs(pairs, len(pairs), own)
