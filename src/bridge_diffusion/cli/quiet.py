"""Keep the libraries' own bars and warnings out of a command's output."""

import os
import sys
import warnings
from typing import Any

_OUR_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def quiet_libraries() -> None:
    """Show our own warnings as one line, and of diffusers and transformers only errors.

    Called before they are imported in full, as some speak while being imported. With `--debug`
    nothing is hidden.
    """
    if os.environ.get("BDM_DEBUG"):
        return
    warnings.showwarning = _show_our_own
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _show_our_own(
    message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any
) -> None:
    if os.path.abspath(filename).startswith(_OUR_PACKAGE):
        print(f"bdm: warning: {' '.join(str(message).split())}", file=sys.stderr)
