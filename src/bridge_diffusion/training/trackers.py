"""Where a run's curves and samples are shown while it trains: TensorBoard, W&B, trackio.

Each is a package of its own. Whatever is chosen, the run's folder holds the same numbers as text
(`curves.py`), so that no report depends on a tracker.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from bridge_diffusion.errors import BridgeError

_PROJECT = "bridge-diffusion"
_PACKAGES = {"tensorboard": "train", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """Shows what a run tells."""

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        """The values of curves after `images` images."""

    def picture(self, image: Image.Image, images: int) -> None:
        """The sample grid after `images` images."""

    def close(self) -> None:
        """Nothing more will come."""


def open_trackers(
    names: tuple[str, ...], run_dir: Path, images: int, settings: Mapping[str, Any]
) -> list[Tracker]:
    """Trackers by name, for a run that has trained on `images` images so far.

    Raises:
        BridgeError: A package is not installed, or the tracker cannot begin.
    """
    kinds: dict[str, Callable[..., Tracker]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "trackio": Trackio,
    }
    opened: list[Tracker] = []
    for name in names:
        try:
            opened.append(kinds[name](run_dir, images, settings))
        except ImportError as error:
            raise BridgeError(
                f"the curves are to be shown in {name}, which is not installed: pip install "
                f"'bridge-diffusion[{_PACKAGES[name]}]', or choose others with --log"
            ) from error
    return opened


class TensorBoard:
    """Event files in run_dir/tensorboard."""

    def __init__(self, run_dir: Path, images: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what an earlier process logged after the checkpoint we continue from.
        self._writer = SummaryWriter(run_dir / "tensorboard", purge_step=images)

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)

    def picture(self, image: Image.Image, images: int) -> None:
        pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, images, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, as `wandb login` or the variable WANDB_MODE (offline, say) sets it up.

    Its steps may not go back, so that the count of images is a value of its own and the axis of
    all curves.
    """

    def __init__(self, run_dir: Path, images: int, settings: Mapping[str, Any]) -> None:
        import wandb

        try:
            self._run = wandb.init(
                project=_PROJECT, name=run_dir.name, dir=run_dir, config=dict(settings)
            )
        except Exception as error:  # of network, login and settings, in many kinds
            raise BridgeError(
                f"wandb cannot begin ({' '.join(str(error).split())[:200]}): run `wandb login`, or "
                "set WANDB_MODE=offline to keep its files here"
            ) from error
        self._image = wandb.Image
        self._run.define_metric("*", step_metric="images")

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        self._run.log({**values, "images": images})

    def picture(self, image: Image.Image, images: int) -> None:
        self._run.log({"samples": self._image(image), "images": images})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """trackio keeps its runs on this machine; `trackio show` draws them."""

    def __init__(self, run_dir: Path, images: int, settings: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=_PROJECT,
            name=run_dir.name,
            config=dict(settings),
            resume="allow",
            embed=False,
        )

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        self._run.log(dict(values), step=images)

    def picture(self, image: Image.Image, images: int) -> None:
        self._run.log({"samples": self._trackio.Image(image)}, step=images)

    def close(self) -> None:
        self._run.finish()
