"""Loading native text encoders: one loader a family, and the files that they read.

A family is a Hugging Face `model_type` (with underscores). All give hidden states from
`model(input_ids=..., attention_mask=...).last_hidden_state`.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.reading import read_json, read_weights

log = logging.getLogger(__name__)

Loader = Callable[[Path, torch.dtype | None], PreTrainedModel]


def model_folder(name: str | Path) -> Path:
    """A local folder as it is; anything of the form owner/name is fetched from the hub.

    Raises `BridgeError` where neither is found.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or len(folder.parts) != 2 or str(name).startswith("."):
        raise BridgeError(
            f"text encoder {str(name)!r} is not a folder; give a Hugging Face model folder "
            "or a hub name of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        folder = Path(snapshot_download(str(name), allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            folder = Path(
                snapshot_download(str(name), allow_patterns=[*patterns, "pytorch_model*.bin"])
            )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BridgeError(
            f"text encoder {str(name)!r} is no local folder and could not be fetched from the hub "
            f"({type(error).__name__}); check the name and the connection"
        ) from error
    return folder


def model_folders(names: str | Path | Sequence[str | Path]) -> list[Path]:
    """One folder for each text model that reads side by side; a folder may hold several.

    Raises `BridgeError` for what is not found.
    """
    if not isinstance(names, (str, Path)):
        return [model_folder(name) for name in names]
    folder = model_folder(names)
    inside = sorted(folder.glob(side_by_side_folder("[1-9]")))
    return inside or [folder]


def side_by_side_folder(number: int | str) -> str:
    """Where one of several models lies in the folder of a text encoder, counted from 1."""
    return f"model_{number}"


def family_of(folder: Path) -> str:
    """The family of a model folder, from its `config.json`."""
    model_type = read_json(folder / "config.json").get("model_type")
    family = str(model_type).replace("-", "_").removesuffix("_text_model")
    if family not in FAMILIES:
        raise BridgeError(
            f"{folder}: text encoders of type {model_type!r} are not supported; "
            f"supported are {', '.join(FAMILIES)}"
        )
    return family


def load_chinese_clip(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """The text tower of Chinese-CLIP, from its own folder or from a two-tower checkpoint.

    The weights are copied key by key: `from_pretrained` of transformers 5 zeroes the [PAD] row of
    the word embeddings, and cannot read a two-tower checkpoint as a text model.
    """
    from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel
    from transformers.initialization import no_init_weights

    values = read_json(folder / "config.json")
    config = ChineseCLIPTextConfig.from_dict(values.get("text_config") or values)
    tensors = read_tensors(folder)
    if any(key.startswith("text_model.") for key in tensors):
        tensors = {
            key.removeprefix("text_model."): tensor
            for key, tensor in tensors.items()
            if key.startswith("text_model.")
        }
    buffers = ("embeddings.position_ids", "embeddings.token_type_ids")
    tensors = {
        key: tensor
        for key, tensor in tensors.items()
        if key not in buffers and not key.startswith("pooler.")
    }
    with no_init_weights():
        model = ChineseCLIPTextModel(config, add_pooling_layer=False)
    _load_strictly(model, tensors, folder)
    return model.eval().to(dtype or next(iter(tensors.values())).dtype)


def load_hidden_state_encoder(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """Any encoder that transformers' `AutoModel` reads and that gives a last hidden state."""
    from transformers import AutoModel

    unpooled = {"add_pooling_layer": False} if family_of(folder) in _WITH_POOLER else {}
    return load_complete(AutoModel, folder, dtype, unpooled)


def load_complete(
    kind: Any, folder: Path, dtype: torch.dtype | None, options: dict[str, Any] | None = None
) -> PreTrainedModel:
    """`kind.from_pretrained` on a folder, without the network; `options` go to the constructor.

    Raises `BridgeError` for files that cannot be read and for missing tensors.
    """
    try:
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype or "auto",
            local_files_only=True,
            output_loading_info=True,
            **(options or {}),
        )
    except UnpicklingError as error:
        raise BridgeError(
            f"{folder} holds a pickle with more than weights; it was not run: "
            "get the safetensors file instead"
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BridgeError(
            f"the network in {folder} cannot be read ({_line(error)}); get its files again"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise BridgeError(
            f"{folder}: {len(missing)} tensors are missing from the weights, first {missing[0]}; "
            "fetch the files again, or give the folder that fits its config.json"
        )
    return model


FAMILIES: dict[str, Loader] = {
    "chinese_clip": load_chinese_clip,
    "bert": load_hidden_state_encoder,
    "roberta": load_hidden_state_encoder,
    "xlm_roberta": load_hidden_state_encoder,
    "distilbert": load_hidden_state_encoder,
    "electra": load_hidden_state_encoder,
}
"""Each supported family and its loader: (folder, dtype or None for the files' own) => model."""

_WITH_POOLER = ("bert", "roberta", "xlm_roberta")  # of no use here: only hidden states are read


def usable_positions(config: PretrainedConfig) -> int:
    """How many tokens the model can place; the RoBERTa kind counts from its padding id on."""
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    return config.max_position_embeddings - offset


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def load_tokenizer(folder: Path, family: str) -> Any:
    """The tokenizer in a folder. Raises `BridgeError` where there is none."""
    from transformers import AutoTokenizer, BertTokenizer

    reader = BertTokenizer if family in ("chinese_clip", "bert") else AutoTokenizer
    if not has_tokenizer(folder):
        raise BridgeError(
            f"{folder} holds no tokenizer ({' or '.join(_TOKENIZER_FILES)}); "
            "copy the tokenizer's files into it"
        )
    try:
        return reader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust reader raises bare Exception on a corrupt file
        raise BridgeError(f"the tokenizer in {folder} cannot be read: {_line(error)}") from error


_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "vocab.json")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder: safetensors, whole or sharded, else a weights-only `.bin`."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if whole.is_file():
            return read_weights(whole)
        if index.is_file():
            shards = sorted(set(read_json(index)["weight_map"].values()))
            return {
                key: tensor
                for shard in shards
                for key, tensor in read_weights(folder / shard).items()
            }
    raise BridgeError(f"{folder} holds no model.safetensors (nor pytorch_model.bin); fetch it")


def _load_strictly(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(tensors))
    surplus = sorted(set(tensors) - set(wanted))
    if missing or surplus:
        raise BridgeError(
            f"{folder}: the weights do not fit the text encoder: {len(missing)} keys missing, "
            f"{len(surplus)} too many (first {(missing + surplus)[0]}); check config.json"
        )
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key].shape:
            raise BridgeError(
                f"{folder}: {key} has shape {tuple(tensor.shape)}, config.json asks for "
                f"{tuple(wanted[key].shape)}"
            )
    model.load_state_dict(tensors)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
