"""What a run tells: progress on the terminal, curves and sample grids in TensorBoard."""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file

_PLAIN_LINE_SECONDS = 30.0


class Journal:
    """Progress and curves of one run; use as a context."""

    def __init__(self, run_dir: Path, images: int, total: int, *, show: bool) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BridgeError(
                "training writes TensorBoard logs and tensorboard is not installed: "
                "pip install 'bridge-diffusion[train]'"
            ) from error
        self._folder = run_dir
        self._total = total
        self._show = show
        self._console = Console(stderr=True)
        # purge_step hides what an earlier process logged after the checkpoint we continue from.
        self._writer = SummaryWriter(run_dir / "tensorboard", purge_step=images)
        self._first = images
        self._started = self._last_line = time.monotonic()
        self._loss = float("nan")
        self._bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            BarColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s, loss {task.fields[loss]:.4f},"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
            console=self._console,
            disable=not (show and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=total, completed=images, rate=0.0, loss=0.0)

    def __enter__(self) -> "Journal":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._writer.close()

    def say(self, line: str) -> None:
        if self._show:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def advance(self, images: int) -> None:
        """Move the bar to `images`; without a terminal, print a line now and then."""
        now = time.monotonic()
        rate = (images - self._first) / max(1e-9, now - self._started)
        self._bar.update(self._task, completed=images, rate=rate, loss=self._loss)
        if not self._console.is_terminal and now - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = now
            minutes = (self._total - images) / max(1e-9, rate) / 60
            self.say(
                f"{images:,}/{self._total:,} images, {rate:.1f} images/s, "
                f"loss {self._loss:.4f}, {minutes:.0f} min left"
            )

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        self._loss = values.get("loss", self._loss)
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)

    def picture(self, image: Image.Image, images: int) -> None:
        """Keep a sample grid as samples/<images>.png and in TensorBoard."""
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        write_file(encoded.getvalue(), self._folder / "samples" / f"{images:08d}.png")
        pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, images, dataformats="HWC")


class SilentJournal:
    """What the processes tell that do not write."""

    def __enter__(self) -> "SilentJournal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def say(self, line: str) -> None:
        """Nothing: the first process says it."""

    def advance(self, images: int) -> None:
        """Nothing."""

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        """Nothing."""

    def picture(self, image: Image.Image, images: int) -> None:
        """Nothing."""
