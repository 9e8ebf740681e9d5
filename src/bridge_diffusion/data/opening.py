"""From what the user names to a data set."""

from pathlib import Path

from bridge_diffusion.data.folder import PairFolder
from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.errors import BridgeError


def open_dataset(spec: str, size: int, seed: int) -> PairDataset:
    """Open a folder of pictures with .txt captions, or the embedded world's scenes.

    spec: a folder, or "emoji:LANGUAGE" ("emoji:zh"); size: side in pixels of scenes that are
    drawn to order; seed: which scenes. BridgeError if there is no such data.
    """
    world, separator, language = spec.partition(":")
    if separator and world == "emoji":
        from bridge_diffusion.worlds.emoji.scenes import EmojiScenes

        return EmojiScenes(language=language, size=size, seed=seed)
    if not Path(spec).is_dir():
        raise BridgeError(
            f"no data at {spec!r}: give a folder of pictures with .txt captions, or emoji:zh"
        )
    return PairFolder(Path(spec))
