"""Textual Inversion: new words of the English prompt, from any of the community's layouts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import Identity, identify
from bridge_diffusion.plugins.files import (
    WeightFile,
    backbone_family,
    check_family,
    check_kind,
    read_weight_file,
)

_FLAG = "--embedding"
_A1111_TENSOR = "string_to_param.*"
# The names of tensors that say nothing of the word they stand for.
_SUFFIX_OF_TOWER = {"clip_l": "", "clip_g": "_2", "text_encoders_0": "", "text_encoders_1": "_2"}
_NAMELESS = ("emb_params", _A1111_TENSOR, *_SUFFIX_OF_TOWER)
# A tokenizer splits a prompt at its words, so a word must not hold what splits weights or tags.
_TOKEN = re.compile(r"[^\s()\[\]:,\\]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingReport:
    """A word that the English prompt may use."""

    identity: Identity
    """What the file is."""
    token: str
    """What to write in the prompt."""
    vectors: int
    """How many tokens of the prompt it takes."""


def load_embedding(pipe: Any, path: Path) -> EmbeddingReport:
    """Give a pipeline's English text encoders the word of a Textual Inversion file.

    The word is the file's name, or the token in the file where diffusers wrote one. SDXL's files
    hold a pair of tensors, `clip_l` and `clip_g`, one for each text encoder.

    Raises:
        BridgeError: The file is damaged, holds code, is of another kind, family or width, or its
            word is taken.
    """
    file, token, towers = _read_for(pipe, path)
    try:
        for suffix, vectors in towers.items():
            pipe.load_textual_inversion(
                {token: vectors},
                token=token,
                tokenizer=getattr(pipe, f"tokenizer{suffix}"),
                text_encoder=getattr(pipe, f"text_encoder{suffix}"),
            )
    except ValueError as error:
        raise BridgeError(
            f"{_FLAG} {path}: the model already knows the word {token!r}; give the file another "
            "name, and write that one in the prompt"
        ) from error
    return EmbeddingReport(
        identity=file.identity, token=token, vectors=len(next(iter(towers.values())))
    )


def check_embedding(pipe: Any, path: Path) -> str:
    """The word of an embedding that a pipeline could load; its networks may be without weights.

    Raises:
        BridgeError: As `load_embedding`.
    """
    return _read_for(pipe, path)[1]


def _read_for(
    pipe: Any, path: Path
) -> tuple[WeightFile, str, Mapping[str, Float[Tensor, "vectors width"]]]:
    file, token, towers = _read(path)
    check_family(file.identity, backbone_family(pipe.unet), _FLAG)
    _check_towers(pipe, towers, path)
    return file, token, towers


def _read(
    path: Path,
) -> tuple[WeightFile, str, Mapping[str, Float[Tensor, "vectors width"]]]:
    """The file, its word, and its vectors by the suffix of the text encoder that reads them."""
    if path.is_dir():
        check_kind(identify(path), "textual inversion", _FLAG)
    file = read_weight_file(path)
    check_kind(file.identity, "textual inversion", _FLAG)
    names = [name for name in file.tensors if not name.startswith("string_to_token")]
    pair = set(names) <= set(_SUFFIX_OF_TOWER)
    if not pair and len(names) != 1:
        raise BridgeError(
            f"{_FLAG} {path} holds {len(names)} tensors ({', '.join(names[:3])} ...); a Textual "
            "Inversion file has one, or SDXL's pair clip_l and clip_g"
        )
    towers = {_SUFFIX_OF_TOWER.get(name, ""): _as_rows(file.tensors[name], path) for name in names}
    if len({len(rows) for rows in towers.values()}) > 1:
        raise BridgeError(f"{_FLAG} {path}: clip_l and clip_g differ in their number of vectors")
    token = path.stem if names[0] in _NAMELESS else names[0]
    if not _TOKEN.fullmatch(token):
        raise BridgeError(
            f"{_FLAG} {path}: {token!r} cannot be a word of the prompt (it has spaces, brackets, "
            "commas or colons); give the file another name"
        )
    return file, token, towers


def _as_rows(tensor: Tensor, path: Path) -> Float[Tensor, "vectors width"]:
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if rows.ndim != 2 or not len(rows) or not rows.is_floating_point():
        raise BridgeError(
            f"{_FLAG} {path} holds numbers of shape {tuple(tensor.shape)}; one vector, or a row "
            "of them, is allowed"
        )
    if not torch.isfinite(rows.float()).all():
        raise BridgeError(f"{_FLAG} {path} holds NaN or infinity; get the file again")
    return rows


def _check_towers(
    pipe: Any, towers: Mapping[str, Float[Tensor, "vectors width"]], path: Path
) -> None:
    """Each text encoder of the pipeline gets vectors of its own width."""
    present = {s for s in ("", "_2") if getattr(pipe, f"text_encoder{s}", None) is not None}
    if present != set(towers):
        wanted = "SDXL, which has two text encoders" if "_2" in present else "one text encoder"
        raise BridgeError(
            f"{_FLAG} {path} has vectors for {len(towers)} text encoders, but the model is of "
            f"{wanted}; give an embedding made for it"
        )
    for suffix, vectors in towers.items():
        encoder = getattr(pipe, f"text_encoder{suffix}")
        width = encoder.get_input_embeddings().weight.shape[1]
        if vectors.shape[1] != width:
            raise BridgeError(
                f"{_FLAG} {path} has vectors of width {vectors.shape[1]}, the model's text "
                f"encoder reads {width}; it was made for a model of another family or size"
            )
