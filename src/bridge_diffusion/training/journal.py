"""What a run tells: progress on the terminal, curves and sample grids in files and trackers."""

import io
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bridge_diffusion.images.writing import write_file
from bridge_diffusion.training.bands import joined
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.curves import CurveFile
from bridge_diffusion.training.memory import peak_memory
from bridge_diffusion.training.trackers import open_trackers

_PLAIN_LINE_SECONDS = 30.0


class Journal:
    """Progress and curves of one run; use as a context."""

    def __init__(
        self, config: LoopConfig, images: int, details: Mapping[str, Any] | None = None
    ) -> None:
        """Begin, or go on after `images` images; `details` are the task's settings, for trackers.

        BridgeError if a tracker is not installed or cannot begin.
        """
        self._folder, self._device = config.run_dir, config.device
        self._total, self._show = config.images, config.progress
        self._console = Console(stderr=True)
        settings = {**config.to_json(), **(details or {})}
        self._trackers = open_trackers(config.trackers, config.run_dir, images, settings)
        self._curves = CurveFile(config.run_dir, images)
        self._first = self._logged = images
        self._started = self._last_line = self._logged_at = time.monotonic()
        self._loss = "not yet"
        self._bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            BarColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s, loss {task.fields[loss]},"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
            console=self._console,
            disable=not (self._show and self._console.is_terminal),
        )
        self._task = self._bar.add_task(
            "", total=self._total, completed=images, rate=0.0, loss=self._loss
        )

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
        for tracker in self._trackers:
            tracker.close()

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
                f"loss {self._loss}, {minutes:.0f} min left"
            )

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        """Means of the training since the last entry, beside them its speed and memory."""
        if "loss" in values:
            self._loss = f"{values['loss']:.4f}"
        told = joined(values)
        if images > self._logged:
            seconds = max(1e-9, time.monotonic() - self._logged_at)
            told["images_per_second"] = (images - self._logged) / seconds
        if (memory := peak_memory(self._device)) is not None:
            told["peak_memory_gib"] = memory
        self._tell(told, images)
        self._logged, self._logged_at = images, time.monotonic()

    def scores(self, values: Mapping[str, float], images: int) -> None:
        """What the task scored on samples."""
        self._tell(values, images)
        self._logged_at = time.monotonic()  # drawing is no training

    def picture(self, image: Image.Image, images: int) -> None:
        """Keep a sample grid as samples/<images>.png and show it."""
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        write_file(encoded.getvalue(), self._folder / "samples" / f"{images:08d}.png")
        for tracker in self._trackers:
            tracker.picture(image, images)
        self._logged_at = time.monotonic()

    def _tell(self, values: Mapping[str, float], images: int) -> None:
        self._curves.add(values, images)
        for tracker in self._trackers:
            tracker.scalars(values, images)


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

    def scores(self, values: Mapping[str, float], images: int) -> None:
        """Nothing."""

    def picture(self, image: Image.Image, images: int) -> None:
        """Nothing."""
