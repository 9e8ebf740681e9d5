"""What the disk refuses is one line, whoever reports it."""

import errno
from pathlib import Path

import pytest

from bridge_diffusion import BridgeError
from bridge_diffusion.writing import clear_write_errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), "disk is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "disk is full"),
        # As safetensors and tokenizers raise it, which write in Rust.
        (Exception("I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError(errno.EACCES, "Permission denied"), r"x \(Permission denied\); choose another"),
        (OSError("no number"), r"x \(no number\); choose another"),
    ],
)
def test_refusals_of_the_system(error: Exception, message: str) -> None:
    with pytest.raises(BridgeError, match=message), clear_write_errors(Path("x")):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(KeyError), clear_write_errors(Path("x")):
        raise KeyError("mine")
