"""Looks at pairs as far as the filters need it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bridge_diffusion.data.filters import Filters, Measures
from bridge_diffusion.data.pairs import Pair, PairDataset, UnusablePair
from bridge_diffusion.errors import BridgeError

_EXTRA = "need the extra `data`: pip install 'bridge-diffusion[data]'"


class Measurer:
    """Measures pairs; holds the models that some filters need."""

    def __init__(self, filters: Filters, *, device: str = "cpu") -> None:
        """BridgeError where a model or a package is missing, or a language is not known."""
        self._filters = filters
        self._spoken = _Languages(filters.languages) if filters.languages else None
        self._scorer = Scorer(filters.scorer, device) if filters.scorer is not None else None
        if filters.near_duplicates is not None:
            try:
                import imagehash
            except ImportError as error:
                raise BridgeError(f"perceptual hashes {_EXTRA}") from error
            self._hash = imagehash.phash

    def measure(self, dataset: PairDataset, indices: Iterable[int]) -> Iterator[Measures]:
        """What is known of each pair, in the order asked for."""
        for index in indices:
            try:
                pair = dataset[index]
            except UnusablePair as unusable:
                yield of_unusable(index, unusable)
                continue
            yield self.measured(index, pair)

    def measured(self, index: int, pair: Pair) -> Measures:
        """What is known of one pair."""
        near = self._filters.near_duplicates is not None
        return Measures(
            index=index,
            key=pair.key,
            width=pair.image.width,
            height=pair.image.height,
            captions=pair.captions,
            tags=pair.languages,
            spoken=self._spoken.probabilities(pair.captions) if self._spoken else (),
            scores=self._scorer.scores(pair.image, pair.captions) if self._scorer else (),
            picture_hash=int(str(self._hash(pair.image)), 16) if near else None,
            content=pair.content,
        )


def of_unusable(index: int, unusable: UnusablePair) -> Measures:
    """What is known of a pair that cannot be used."""
    return Measures(
        index=index, key=unusable.key, unusable=unusable.reason, content=unusable.content
    )


class _Languages:
    """Tells in which language a text is, by the package lingua, which has its models with it."""

    def __init__(self, wanted: Sequence[str]) -> None:
        try:
            from lingua import Language, LanguageDetectorBuilder
        except ImportError as error:
            raise BridgeError(f"languages told from the text {_EXTRA}") from error
        known = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
        codes = [tag.lower().replace("_", "-").partition("-")[0] for tag in wanted]
        if unknown := [code for code in codes if code not in known]:
            raise BridgeError(
                f"--spoken {unknown[0]} is no language that is told from the text; known are "
                f"{', '.join(sorted(known))}"
            )
        self._wanted = [known[code] for code in codes]
        self._detector = LanguageDetectorBuilder.from_all_languages().build()

    def probabilities(self, texts: Sequence[str]) -> tuple[float, ...]:
        return tuple(
            sum(
                self._detector.compute_language_confidence(text, language)
                for language in self._wanted
            )
            for text in texts
        )


class Scorer:
    """Cosine similarities of pictures and texts, by a CLIP-like model."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """BridgeError if the folder holds no CLIP-like model with its tokenizer."""
        from transformers import AutoModel, AutoProcessor

        if not folder.is_dir():
            raise BridgeError(f"--scorer {folder} is no folder; give that of a CLIP model")
        try:
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True)
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # of many kinds, each meaning that parts are missing
            line = " ".join(str(error).split())
            raise BridgeError(f"--scorer {folder} cannot be loaded ({line})") from error
        if not hasattr(self._model, "get_image_features") or not hasattr(
            self._processor, "tokenizer"
        ):
            raise BridgeError(
                f"--scorer {folder} holds a {type(self._model).__name__}; a CLIP or Chinese-CLIP "
                "model with its tokenizer and preprocessor_config.json is needed"
            )
        self._model.to(device).eval()
        self._device = device

    @torch.no_grad()
    def scores(self, image: Image.Image, captions: Sequence[str]) -> tuple[float, ...]:
        inputs = self._processor(
            text=list(captions),
            images=[image],
            return_tensors="pt",
            padding=True,
            truncation=True,
        ).to(self._device)
        out = self._model(**inputs)
        picture, texts = (
            torch.nn.functional.normalize(features.float(), dim=-1)
            for features in (out.image_embeds, out.text_embeds)
        )
        return tuple((texts @ picture[0]).tolist())
