"""The page's files as they are served: each with its own media type, asked for anew each time."""

import os
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parent / "page"
# Named here, because some systems' own tables call modules plain text, and browsers refuse them.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


class PageFiles(StaticFiles):
    """The folder of the page. A browser asks whether a file is still the same, never guesses."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE, html=True)

    def file_response(self, full_path: Any, *arguments: Any, **named: Any) -> Response:
        """A file, or "304 not modified" for one that the browser has."""
        response = super().file_response(full_path, *arguments, **named)
        response.headers["Cache-Control"] = "no-cache"
        media_type = _TYPES.get(os.path.splitext(full_path)[1])
        if media_type is not None and isinstance(response, FileResponse):
            response.headers["Content-Type"] = f"{media_type}; charset=utf-8"
        return response
