"""What the disk refuses, said in one line."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge_diffusion.errors import BridgeError


@contextmanager
def clear_write_errors(place: Path) -> Iterator[None]:
    """Raise `BridgeError` where the system refuses to write at `place`.

    The block itself must leave nothing half-written behind.
    """
    try:
        yield
    except Exception as error:
        number = system_error_number(error)
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise BridgeError(
                f"the disk is full: nothing was written to {place}; free some space"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else None
        raise BridgeError(
            f"cannot write to {place} ({reason or error}); choose another place"
        ) from error


def system_error_number(error: Exception) -> int | None:
    """The system's error number; None for an error that is not the system's."""
    if isinstance(error, OSError):
        return error.errno or 0
    # safetensors and tokenizers write in Rust, which reports "... (os error 28)".
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
