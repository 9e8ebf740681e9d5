"""Keep the libraries' own bars and warnings out of a command's output."""

import logging
import os
import sys
import warnings

from bridge_diffusion.cli.launch import speaks

_ours = logging.getLogger("bridge_diffusion")


def quiet_libraries() -> None:
    """Show our own log's warnings, each once as one line, and nothing of other libraries.

    What they say of an error stands in the exception too. Called before they are imported in full,
    as some speak while being imported. With `--debug` nothing is hidden.
    """
    if os.environ.get("BDM_DEBUG"):
        return
    _ours.handlers = [_Lines()]
    if not speaks():
        _ours.setLevel(logging.ERROR)  # the first process says it
    warnings.simplefilter("ignore")
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()


class _Lines(logging.Handler):
    """Writes each message to standard error, once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        if line not in self._said:
            self._said.add(line)
            print(f"bdm: warning: {line}", file=sys.stderr)
