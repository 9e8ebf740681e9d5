"""The folder of a run knows what it holds: its resolved configuration is written before step 0."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import FREE_ON_RESUME, LoopConfig


def open_run(config: LoopConfig, details: Mapping[str, Any]) -> None:
    """Write run_dir/config.json, or check that the folder holds this very run.

    BridgeError if the folder holds a run with other settings, or something that is no run.
    """
    wanted = {"loop": config.to_json(), "task": _plain(details)}
    file = config.run_dir / "config.json"
    if file.is_file():
        _check_same_run(file, wanted)
    elif config.run_dir.is_dir() and any(config.run_dir.iterdir()):
        raise BridgeError(
            f"{config.run_dir} is not empty and holds no training run; give another folder"
        )
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
        unfinished = file.with_name("config.json.unfinished")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, file)
    except OSError as error:
        raise BridgeError(f"{config.run_dir} cannot be written ({error.strerror})") from error


def _check_same_run(file: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        parts = {part: dict(found[part]) for part in ("loop", "task")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BridgeError(f"{file} cannot be read ({error}); give another folder") from error
    for part, free in (("loop", FREE_ON_RESUME), ("task", frozenset[str]())):
        for name in sorted((parts[part].keys() | wanted[part].keys()) - free):
            before, now = parts[part].get(name), wanted[part].get(name)
            if before != now:
                raise BridgeError(
                    f"{file.parent} was started with {name} = {before!r}, not {now!r}; "
                    "keep its settings to continue it, or give another folder"
                )


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON will give it back (tuples become lists), so that both sides compare equal."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(details), default=str))
    return plain
