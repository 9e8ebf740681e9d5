"""Batches on their way to another machine, where paths mean nothing: pictures travel as bytes.

Models, bridges and plug-ins are not sent: they lie at the same paths on each machine.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The fields of a request that hold paths of pictures: one, several or none.
_PICTURES = ("init_image", "mask", "control", "ip_image")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """Tasks, and the pictures that their requests name in the place of paths."""

    tasks: tuple[dict[str, Any], ...]
    """As `engine.Task` reads them, but for the paths."""
    pictures: Mapping[str, bytes]
    """Files by the SHA-256 of what they hold."""


def pack(tasks: Sequence[Mapping[str, Any]]) -> Parcel:
    """Tasks of this machine => what can be sent. Raises `OSError` for a file that is gone."""
    pictures: dict[str, bytes] = {}

    def name_of(path: str) -> str:
        data = Path(path).read_bytes()
        name = hashlib.sha256(data).hexdigest()
        pictures[name] = data
        return name

    packed = tuple(
        {**task, "request": _renamed(task["request"], name_of), "file": task["id"]}
        for task in tasks
    )
    return Parcel(tasks=packed, pictures=pictures)


def unpack(parcel: Parcel, folder: Path) -> list[dict[str, Any]]:
    """What was sent => tasks whose pictures lie in a folder, and will be written there."""
    for name, data in parcel.pictures.items():
        (folder / name).write_bytes(data)

    def path_of(name: str) -> str:
        assert name in parcel.pictures
        return str(folder / name)

    return [
        {
            **task,
            "request": _renamed(task["request"], path_of),
            "file": str(folder / f"{task['file']}.png"),
        }
        for task in parcel.tasks
    ]


def _renamed(request: Mapping[str, Any], rename: Any) -> dict[str, Any]:
    """A request's JSON values with other names of its pictures."""
    renamed = dict(request)
    for field in _PICTURES:
        value = request[field]
        if isinstance(value, list):
            renamed[field] = [rename(each) for each in value]
        elif value is not None:
            renamed[field] = rename(value)
    return renamed
