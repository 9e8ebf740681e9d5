"""Checkpoints: a folder that is either whole or not there. Safetensors and JSON, never pickle.

run_dir/checkpoints/00020000/          the number is the count of images trained on
    model.safetensors                  the trained weights
    ema.safetensors                    their moving average, if there is one
    optimizer.safetensors              AdamW's moments, as "<weight>.<moment>"
    state.json                         {"images": ..., "step": ..., "skipped": ...}
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.parallel import put, whole
from bridge_diffusion.writing import system_error_number

_DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    errno.ENOTDIR,
}
_UNFINISHED = ".unfinished"
_REPLACED = ".replaced"


@dataclass(slots=True)
class TrainingState:
    """Everything that a run carries from one step to the next."""

    module: nn.Module
    """What is trained."""
    optimizer: torch.optim.Optimizer
    """AdamW over the weights of `module` that require a gradient."""
    ema: EMAModel | None
    """Moving average of all parameters of `module`, in the order of `named_parameters`."""
    twin: nn.Module | None = None
    """Where `module` is split over the processes, in the first of them: the same without values."""
    images: int = 0
    """Images trained on so far."""
    step: int = 0
    """Steps of the optimiser so far, skipped ones included."""
    skipped: int = 0
    """Steps that were left out because their gradient was not finite."""

    def save(self, folder: Path | None) -> None:
        """Write the state into an existing empty folder.

        What is split over the processes is gathered, for which all must call this; those that do
        not write give None.
        """
        keep = folder is not None
        for name, tensors in self._files():
            on_disk = _on_disk(tensors, keep)
            if folder is not None:
                save_file(on_disk, folder / f"{name}.safetensors")
        if folder is not None:
            counts = {"images": self.images, "step": self.step, "skipped": self.skipped}
            (folder / "state.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")

    def whole_module(self) -> nn.Module | None:
        """The module in one piece on the CPU, in the first process; all must ask alike."""
        tensors = _on_disk(_tensors(self.module), self.twin is not None)
        if self.twin is not None:
            self.twin.load_state_dict(tensors, assign=True)
        return self.twin

    def _files(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield "model", _tensors(self.module)
        if self.ema is not None:
            names = [name for name, _ in self.module.named_parameters()]
            yield "ema", dict(zip(names, self.ema.shadow_params, strict=True))
        yield (
            "optimizer",
            {
                # bitsandbytes counts steps in plain numbers.
                f"{name}.{moment}": value if isinstance(value, Tensor) else torch.tensor(value)
                for name, weight in self.module.named_parameters()
                for moment, value in self.optimizer.state.get(weight, {}).items()
            },
        )

    def load(self, folder: Path) -> None:
        """Take the state from a checkpoint. BridgeError if it is damaged or of another model."""
        try:
            found = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            images, step = int(found["images"]), int(found["step"])
            skipped = int(found.get("skipped", 0))
            weights = load_file(folder / "model.safetensors")
            moments = load_file(folder / "optimizer.safetensors")
            average = None if self.ema is None else load_file(folder / "ema.safetensors")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BridgeError(
                f"the checkpoint {folder} cannot be read ({error}); delete this folder to go on "
                "from the one before it"
            ) from error
        _copy(weights, _tensors(self.module), folder / "model.safetensors")
        parameters = dict(self.module.named_parameters())
        if self.ema is not None and average is not None:
            shadows = dict(zip(parameters, self.ema.shadow_params, strict=True))
            _copy(average, shadows, folder / "ema.safetensors")
            self.ema.optimization_step = step - skipped
        self._load_moments(moments, parameters, folder / "optimizer.safetensors")
        self.images, self.step, self.skipped = images, step, skipped

    def _load_moments(
        self, moments: dict[str, Tensor], parameters: dict[str, nn.Parameter], file: Path
    ) -> None:
        for key, value in moments.items():
            name, _, moment = key.rpartition(".")
            if name not in parameters:
                raise BridgeError(f"{file} is of another model: it has {name!r}")
            weight = parameters[name]
            if value.shape == weight.shape:
                # zeros_like keeps the weight's memory order, which the file does not.
                like = torch.zeros_like(weight, requires_grad=False, dtype=value.dtype)
                put(value, like)
                value = like
            counts = moment == "step" and not isinstance(self.optimizer, torch.optim.AdamW)
            self.optimizer.state[weight][moment] = int(value) if counts else value.to(weight.device)


def save_checkpoint(state: TrainingState, folder: Path, keep: int) -> Path:
    """Write a checkpoint named by its images into `folder`, then delete all but the newest `keep`.

    BridgeError if the disk is full; the earlier checkpoints are whole then.
    """
    target = folder / f"{state.images:08d}"
    with atomic_folder(target) as unfinished:
        state.save(unfinished)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(r"\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name))


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new empty folder that takes the place of `target` when the block ends without an error.

    On an error what was at `target` is left as it was. A full or read-only disk is a BridgeError.
    """
    unfinished = target.with_name(target.name + _UNFINISHED)
    replaced = target.with_name(target.name + _REPLACED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        for path in unfinished.rglob("*"):
            _sync(path)
        _sync(unfinished)
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        unfinished.rename(target)
        _sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if system_error_number(error) not in _DISK_ERRORS:
            raise
        raise BridgeError(
            f"{target} could not be written ({error}); what was saved before is untouched: "
            "make room and run the same command again"
        ) from error
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Make the system write a file's contents, or a folder's entries, to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module by name; one that is shared under several names comes once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _on_disk(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors gathered on the CPU; none if they are not to be kept."""
    gathered = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if keep:
            gathered[name] = tensor.cpu().contiguous()
    return gathered


def _copy(source: dict[str, Tensor], target: dict[str, Tensor], file: Path) -> None:
    """Copy by name. BridgeError unless both hold the same names and shapes."""
    for name in sorted(source.keys() ^ target.keys()):
        where = "lacks" if name in target else "has"
        raise BridgeError(f"{file} is of another model: it {where} {name!r}")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise BridgeError(
                f"{file} is of another model: {name!r} is {tuple(source[name].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
        put(source[name], tensor.detach())
