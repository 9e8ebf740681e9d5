"""What a native text encoder is trained on: captions with pictures, or with translations.

Targets that never change (features of a frozen image tower, or of a teacher) are encoded once,
before training, and read back from the disk. For an image tower that is trained too, pictures are
read at every step. Some pairs are held out and never trained on.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bridge_diffusion.data.pairs import Pair, PairDataset, fingerprint
from bridge_diffusion.data.pixels import fit_square, to_pixels
from bridge_diffusion.data.readable import (
    ReadablePairs,
    encode_pictures,
    readable,
    unreadable,
)
from bridge_diffusion.data.store import Item, TensorStore, build_store, module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.examples import Progress
from bridge_diffusion.training.order import ShuffledOrder
from bridge_diffusion.training.text_encoder import HeldOut
from bridge_diffusion.training.text_request import PAIRS_OF_STEP
from bridge_diffusion.training.text_towers import ImageTower, TeacherTower

_MOST_HELD_OUT = 1000  # pairs: retrieval among more is slow to read and says no more


class CachedTargets:
    """Features that were encoded once, with one of their captions each. Batches by index."""

    def __init__(
        self, store: TensorStore, *, batch_size: int | None, seed: int, hold_out: float = 0.0
    ) -> None:
        """A store as the `cache_…` functions make it; `hold_out`: part of the pairs."""
        self._store = store
        self.skipped = unreadable(store)
        """Unreadable pictures: why, by name."""
        self._training, held_out = split_pairs(readable(store), hold_out)
        self.batch_size = fitting_batch(batch_size, len(self._training))
        self._order = shuffled_order(self._training, self.batch_size, seed)
        self.held_out = _held_out(
            [store[i][0].float() for i in held_out],
            [store.notes[i]["captions"] for i in held_out],
        )

    def __call__(self, index: int) -> tuple[Float[Tensor, "batch features"], list[str]]:
        features, captions = [], []
        for pick in self._order.batch(index):
            position = self._training[pick.index]
            features.append(self._store[position][0].float())
            captions.append(pick.caption_of(self._store.notes[position]["captions"]))
        return torch.stack(features), captions

    def captions(self) -> list[str]:
        """All captions that are trained on."""
        return [text for i in self._training for text in self._store.notes[i]["captions"]]


class LivePictures:
    """Pictures as pixels, -1..1, with one of their captions each. Batches by index."""

    def __init__(
        self,
        dataset: PairDataset,
        *,
        size: int,
        batch_size: int | None,
        seed: int,
        hold_out: float = 0.0,
    ) -> None:
        """Unreadable pictures are skipped and noted in `skipped`; the next one stands in."""
        self._pairs, self._size = ReadablePairs(dataset), size
        self._training, held_out = split_pairs(list(range(len(dataset))), hold_out)
        self.batch_size = fitting_batch(batch_size, len(self._training))
        self._order = shuffled_order(self._training, self.batch_size, seed)
        pairs = [pair for i in held_out if (pair := self._pairs.pair(i)) is not None]
        self.held_out = _held_out(
            [self._pixels(pair) for pair in pairs], [pair.captions for pair in pairs]
        )

    def __call__(self, index: int) -> tuple[Float[Tensor, "batch 3 size size"], list[str]]:
        pixels, captions = [], []
        for pick in self._order.batch(index):
            pair = self._pairs.pair_among(self._training, pick.index)
            pixels.append(self._pixels(pair))
            captions.append(pick.caption_of(pair.captions))
        return torch.stack(pixels), captions

    @property
    def skipped(self) -> dict[str, str]:
        """Unreadable pictures met so far: why, by name."""
        return self._pairs.skipped

    def captions(self) -> list[str]:
        """All captions that are trained on; reads every picture once."""
        pairs = [pair for i in self._training if (pair := self._pairs.pair(i)) is not None]
        if not pairs:
            first = next(iter(self.skipped))
            raise BridgeError(
                f"none of the {len(self._training)} pictures can be read; look at {first}"
            )
        return [text for pair in pairs for text in pair.captions]

    def _pixels(self, pair: Pair) -> Float[Tensor, "3 size size"]:
        return to_pixels(fit_square(pair.image, self._size))


def cache_image_features(
    cache: Path, dataset: PairDataset, tower: ImageTower, *, progress: Progress | None = None
) -> TensorStore:
    """Features of all pictures, encoded once. An unreadable picture is an item without rows."""
    identity = {
        "what": "image features",
        "data": fingerprint(dataset),
        "model": module_hash(tower),
        "normalisation": [tower.mean.flatten().tolist(), tower.std.flatten().tolist()],
    }

    @torch.no_grad()
    def features(pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch features"]:
        return _finite(tower(pixels.to(tower.mean.device)), "image tower")

    def encode(indices: Sequence[int]) -> list[Item]:
        return encode_pictures(dataset, indices, tower.size, features)

    return build_store(cache, identity, len(dataset), encode, progress=progress)


def cache_teacher_features(
    cache: Path,
    pairs: Sequence[tuple[str, str]],
    teacher: TeacherTower,
    *,
    progress: Progress | None = None,
) -> TensorStore:
    """A teacher's features of the first text of each pair; the second text is the caption."""
    identity = {
        "what": "teacher features",
        "data": parallel_hash(pairs),
        "model": module_hash(teacher),
    }

    def encode(indices: Sequence[int]) -> list[Item]:
        chosen = [pairs[i] for i in indices]
        rows = _finite(teacher([english for english, _ in chosen]), "teacher")
        return [
            Item(row, {"captions": [native]})
            for row, (_, native) in zip(rows.split(1), chosen, strict=True)
        ]

    return build_store(cache, identity, len(pairs), encode, progress=progress)


def read_parallel_text(path: Path) -> list[tuple[str, str]]:
    """Pairs of a UTF-8 text file: a line each, English, a tab, the native text.

    Raises `BridgeError` for a file that cannot be read and for a line of another form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BridgeError(f"{path} cannot be read as UTF-8 text ({error})") from error
    if "\0" in text:  # of UTF-16, each Latin letter is followed by one
        raise BridgeError(f"{path} is not UTF-8 text; save it as UTF-8")
    pairs = []
    lines = unicodedata.normalize("NFC", text).split("\n")  # as editors count, not at U+2028
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise BridgeError(
                f"{path}, line {number}: write English text, one tab, and the native text"
            )
        pairs.append((parts[0], parts[1]))
    if not pairs:
        raise BridgeError(f"{path} holds no pair of texts")
    return pairs


def parallel_hash(pairs: Sequence[tuple[str, str]]) -> str:
    """A hash of parallel texts, in their order."""
    return hashlib.sha256(json.dumps(list(pairs)).encode()).hexdigest()


def _finite(features: Tensor, what: str) -> Float[Tensor, "batch features"]:
    if not features.isfinite().all():
        raise BridgeError(f"the {what} gave features that are not finite; check its weights")
    return features.float().cpu()


def fitting_batch(asked: int | None, pairs: int) -> int:
    """The batch that was asked for; the usual one, or all pairs where there are fewer, if none."""
    return min(PAIRS_OF_STEP, pairs) if asked is None else asked


def shuffled_order(
    training: Sequence[int], batch_size: int, seed: int, caption_dropout: float = 0.0
) -> ShuffledOrder:
    """Every pair once an epoch. BridgeError where a batch is more than the pairs."""
    if batch_size > len(training):
        raise BridgeError(
            f"a batch of {batch_size} is more than the {len(training)} pairs to train on; "
            f"give --batch-size {len(training)} or less, or more pairs"
        )
    return ShuffledOrder(
        len(training), batch_size=batch_size, caption_dropout=caption_dropout, seed=seed
    )


def split_pairs(indices: list[int], hold_out: float) -> tuple[list[int], list[int]]:
    """Training and held-out indices; the same for every seed, so that runs compare."""
    count = min(_MOST_HELD_OUT, int(len(indices) * hold_out))
    chosen = set(np.random.default_rng(0).permutation(len(indices))[:count].tolist())
    training = [index for i, index in enumerate(indices) if i not in chosen]
    return training, [indices[i] for i in sorted(chosen)]


def _held_out(targets: list[Tensor], captions: Sequence[Sequence[str]]) -> HeldOut | None:
    if not targets:
        return None
    return HeldOut(targets=torch.stack(targets), captions=tuple(texts[0] for texts in captions))
