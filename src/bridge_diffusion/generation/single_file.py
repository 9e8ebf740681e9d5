"""A Stable Diffusion 1.5 checkpoint in one file, as communities share it => a stock pipeline.

diffusers asks the network for the configuration that such a file lacks; here it ships with the
package (`sd15/`), the tokenizer included.
"""

import gzip
import json
import pickle
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import SD15_CONFIG
from bridge_diffusion.identify import kind_and_family, read_header
from bridge_diffusion.reading import is_zip, unwrapped

_CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


def load_single_file(
    path: Path,
    *,
    dtype: torch.dtype,
    config: Path = SD15_CONFIG,
    tokenizer: CLIPTokenizer | None = None,
) -> StableDiffusionPipeline | StableDiffusionInpaintPipeline:
    """Load a `.safetensors` or `.ckpt` file; one with 9 input channels as the inpainting pipeline.

    Args:
        config: Folder with the configurations of the file's parts.
        tokenizer: The tokenizer of the file's text encoder; None is CLIP's.

    Raises:
        BridgeError: The file holds something else, another family, or a pickle with code.
    """
    shapes = read_header(path).shapes if path.suffix == ".safetensors" else _read_ckpt_shapes(path)
    kind, family = kind_and_family(shapes)
    if kind != "Stable Diffusion checkpoint" or family not in (None, "sd15"):
        found = kind if family is None else f"{kind} of family {family}"
        raise BridgeError(
            f"{path} is a {found}; only Stable Diffusion 1.5 is loaded from a single file: "
            "give the model as a pipeline folder"
        )
    channels = shapes[_CONV_IN][1] if _CONV_IN in shapes else 4
    cls = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    with tempfile.TemporaryDirectory() as temporary:
        folder = shutil.copytree(config, Path(temporary) / "config")
        _set_channels(folder / "unet" / "config.json", channels)
        return cls.from_single_file(
            str(path),
            config=str(folder),
            tokenizer=tokenizer or clip_tokenizer(),
            dtype=dtype,
            local_files_only=True,
        )


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, made from its merges as OpenAI's `simple_tokenizer.py` makes it."""
    packed = (SD15_CONFIG / "tokenizer" / "merges.txt.gz").read_bytes()
    text = gzip.decompress(packed).decode("utf-8")
    merges = [tuple(line.split()) for line in text.splitlines()[1:]]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _set_channels(path: Path, channels: int) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"in_channels": channels}), encoding="utf-8")


def _read_ckpt_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name in a `.ckpt`; anything in it but tensors and plain values is refused."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        raise BridgeError(
            f"{path} is a pickle with more than tensors and was not executed; "
            "get the same model as safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise BridgeError(f"{path} is no whole checkpoint; get the file again") from error
    state = unwrapped(state)
    if not isinstance(state, dict):
        raise BridgeError(f"{path} holds no model; give a Stable Diffusion 1.5 checkpoint")
    return {k: tuple(v.shape) for k, v in state.items() if isinstance(v, torch.Tensor)}
