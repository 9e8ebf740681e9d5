"""What a worker does: keeps a model open, draws batches, reports as it goes."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.drawing import Drawing, Step, draw, draw_together
from bridge_diffusion.generation.loading import OpenedModel, open_model
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.generation.together import model_key
from bridge_diffusion.images.metadata import ImageMetadata, encode_image
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.server.previews import LatentColours, data_url

_log = logging.getLogger(__name__)
_ours = logging.getLogger("bridge_diffusion")

_BETWEEN_PREVIEWS = 0.25  # seconds

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One picture to draw."""

    id: str
    """What reports call it."""
    request: GenerationRequest
    """Of this picture alone, with its seed."""
    fields: Mapping[str, Any]
    """The order that draws it again: what its file says in the place of the request's paths."""
    file: Path
    """Where it is written."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Task":
        """The task that the server sent."""
        request = GenerationRequest.from_json(values["request"])
        file = Path(values["file"])
        return cls(id=values["id"], request=request, fields=values["fields"], file=file)


class Stopped(Exception):
    """Nobody wants the batch any more."""


class Engine:
    """Draws on one device. One model is open at a time."""

    def __init__(self, device: str, report: Report, is_stopped: Callable[[], bool]) -> None:
        """
        Args:
            report: Is told what happens, as JSON values.
            is_stopped: Asked at every step.
        """
        self._device = device
        self._report = report
        self._is_stopped = is_stopped
        self._key = ""
        self._opened: OpenedModel | None = None
        self._colours: LatentColours | None = None
        self._next_preview = 0.0

    def draw(self, tasks: Sequence[Task]) -> None:
        """Draw tasks of one batch key; whatever goes wrong is reported, not raised.

        Of a batch that fails, each picture is drawn alone, so that one bad order spoils no other.
        """
        try:
            with self._notes_of(tasks):
                self._draw(tasks)
        except Stopped:
            self._recover()
        except Exception as error:
            self._recover()
            if len(tasks) > 1 and not self._is_stopped():
                for task in tasks:
                    self.draw([task])
                return
            told = _told(error)
            values = {"error": str(told), "code": told.code, "values": told.values}
            for task in tasks:
                self._report({"failed": task.id, **values})

    def _draw(self, tasks: Sequence[Task]) -> None:
        requests = [replace(task.request, device=self._device) for task in tasks]
        opened = self._open(requests[0])
        self._next_preview = 0.0  # the first step of a drawing shows something

        def step_end(step: Step) -> None:
            self._tell_step(tasks, step)
            if self._is_stopped():
                raise Stopped

        if len(tasks) == 1:
            (drawing,) = draw(opened, requests[0], step_end)
            self._finish(tasks[0], drawing)
            return
        for index, drawing in draw_together(opened, requests, step_end):
            self._finish(tasks[index], drawing)

    def _open(self, request: GenerationRequest) -> OpenedModel:
        key = model_key(request)
        if self._opened is None or self._key != key:
            self._opened = self._colours = None  # the old one leaves the memory first
            self._free()
            try:
                self._opened, self._key = open_model(request), key
            except BridgeError as error:
                if error.code:
                    raise
                raise BridgeError(str(error), "model_unusable", field="model") from error
            self._opened.pipe.set_progress_bar_config(disable=True)
        return self._opened

    def _tell_step(self, tasks: Sequence[Task], step: Step) -> None:
        now = monotonic()
        with_previews = now >= self._next_preview or step.number == step.of
        if with_previews:
            self._next_preview = now + _BETWEEN_PREVIEWS
        for row, index in enumerate(step.pictures):
            preview = self._preview(step, row) if with_previews else None
            self._report(
                {
                    "step": tasks[index].id,
                    "number": step.number,
                    "of": step.of,
                    "preview": preview,
                }
            )

    def _preview(self, step: Step, row: int) -> str:
        assert self._opened is not None
        if self._colours is None:
            self._colours = LatentColours.of(self._opened.pipe)
        return data_url(self._colours.picture(step.latents[row]))

    def _finish(self, task: Task, drawing: Drawing) -> None:
        record = drawing.metadata.record
        assert record is not None
        made = {name: record["request"][name] for name in ("device", "dtype")}
        metadata = ImageMetadata(
            infotext=drawing.metadata.infotext,
            record={**record, "request": {**task.fields, **made}},
        )
        write_file(encode_image(drawing.image, ".png", metadata), task.file)
        self._report(
            {
                "finished": task.id,
                "width": drawing.image.width,
                "height": drawing.image.height,
                "blacked_out": drawing.blacked_out,
            }
        )

    def _recover(self) -> None:
        """After an error the model is as good as before, but for what an offload left on a GPU."""
        if self._opened is not None:
            self._opened.pipe.maybe_free_model_hooks()
        self._free()

    def _free(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def _notes_of(self, tasks: Sequence[Task]) -> Any:
        """Reports our own log's warnings, such as that a prompt was cut, with the tasks."""
        handler = _Notes([task.id for task in tasks], self._report)
        _ours.addHandler(handler)
        try:
            yield
        finally:
            _ours.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, ids: Sequence[str], report: Report) -> None:
        super().__init__(logging.WARNING)
        self._ids, self._report = ids, report

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        for id in self._ids:
            self._report({"note": id, "text": text})


def _told(error: Exception) -> BridgeError:
    """What a client is told: our own messages as they are, of others the kind alone."""
    if isinstance(error, BridgeError):
        return error
    _log.error("a picture could not be drawn", exc_info=error)
    kind = type(error).__name__
    return BridgeError(
        f"the drawing failed ({kind}); the server's log says more", "drawing_failed", kind=kind
    )
