"""The folder of a run knows what it holds: its resolved configuration is written before step 0."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.training.config import FREE_ON_RESUME, LoopConfig
from bridge_diffusion.training.processes import Processes
from bridge_diffusion.writing import clear_write_errors

_FILE = "config.json"
_EXPORTED = "exported.json"
_LOCK = ".lock"


def check_run(config: LoopConfig, details: Mapping[str, Any]) -> None:
    """BridgeError unless run_dir is new, or empty, or holds this very run. Writes nothing."""
    file = config.run_dir / _FILE
    if file.is_file():
        _check_same_run(file, _described(config, details))
    elif config.run_dir.exists() and not config.run_dir.is_dir():
        raise BridgeError(f"{config.run_dir} is a file; give another folder for the run")
    elif config.run_dir.is_dir() and any(p.name != _LOCK for p in config.run_dir.iterdir()):
        raise BridgeError(
            f"{config.run_dir} is not empty and holds no training run; give another folder"
        )


def open_together(config: LoopConfig, details: Mapping[str, Any], processes: Processes) -> None:
    """Check as `check_run` does, then write run_dir/config.json, in the first process.

    BridgeError too unless all processes have the same settings.
    """
    whole = _described(config, details)
    own = {"device", "time_limit", "progress"}
    loop = {name: value for name, value in whole["loop"].items() if name not in own}
    processes.agree({**loop, **whole["task"]})
    if processes.is_first:
        check_run(config, details)
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
        write_file(text.encode(), config.run_dir / _FILE)
    processes.wait()


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Have a folder to oneself; a process that is killed gives it free.

    BridgeError if another process, started by itself, writes into it.
    """
    lock = FileLock(folder / _LOCK)
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BridgeError(
                f"another process writes into {folder} now: wait for its end, or give another "
                "folder"
            ) from error
    try:
        yield
    finally:
        lock.release()


def read_settings(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The resolved settings of a run: "loop" and "task". BridgeError if there is no run."""
    file = run_dir / _FILE
    if not file.is_file():
        raise BridgeError(
            f"{run_dir} is no training run: it has no {_FILE}; give the folder that --out named"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {part: dict(found[part]) for part in ("loop", "task")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BridgeError(f"{file} cannot be read ({error}); give another folder") from error


def exported_images(run_dir: Path) -> int | None:
    """After how many images run_dir/export was made; None if it was not, or is not known."""
    file = run_dir / _EXPORTED
    if not file.is_file() or not (run_dir / "export").is_dir():
        return None
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_export(run_dir: Path, images: int) -> None:
    """Remember that run_dir/export was made after so many images."""
    write_file(json.dumps({"images": images}).encode() + b"\n", run_dir / _EXPORTED)


def _check_same_run(file: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        parts = {part: dict(found[part]) for part in ("loop", "task")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BridgeError(f"{file} cannot be read ({error}); give another folder") from error
    loop = parts["loop"]
    if "images_per_step" not in loop:  # of an earlier version: one process, one optimiser
        loop["images_per_step"] = loop.get("batch_size", 0) * loop.get("accumulate", 1)
        loop["optimizer"] = "adamw"
    if (before := loop["images_per_step"]) != (now := wanted["loop"]["images_per_step"]):
        raise BridgeError(
            f"{file.parent} was started with {before} images a step, not {now}: choose batch size "
            f"x accumulate x processes so that it is {before} again, or give another folder"
        )
    for part, free in (("loop", FREE_ON_RESUME), ("task", frozenset[str]())):
        for name in sorted((parts[part].keys() | wanted[part].keys()) - free):
            before, now = parts[part].get(name), wanted[part].get(name)
            if before != now:
                raise BridgeError(
                    f"{file.parent} was started with {name} = {before!r}, not {now!r}; "
                    "keep its settings to continue it, or give another folder"
                )


def _described(config: LoopConfig, details: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON will give it back (tuples become lists), so that both sides compare equal."""
    both = {"loop": config.to_json(), "task": dict(details)}
    plain: dict[str, Any] = json.loads(json.dumps(both, default=str))
    return plain
