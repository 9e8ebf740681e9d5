"""Several processes run one command when a launcher starts them: one of them speaks."""

import os


def speaks() -> bool:
    """Whether this process is the first of those that `torchrun` or `accelerate launch` started.

    True without a launcher.
    """
    return os.environ.get("RANK", "0") == "0"


def error_prefix() -> str:
    """How an error begins; it names the process where there are several."""
    count = os.environ.get("WORLD_SIZE", "1")
    return "bdm: error:" if count == "1" else f"bdm: error in process {os.environ['RANK']}:"
