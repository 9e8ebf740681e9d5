"""Errors as clients get them: one line, no stack trace, and nothing of what they sent."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.orders import validation_error
from bridge_diffusion.server.queue import QueueFull
from bridge_diffusion.server.wording import as_line

_log = logging.getLogger(__name__)

_OPENAI = "/v1/"


class Problem(BaseModel):
    """What went wrong."""

    detail: str
    """One line: what was got, what is allowed."""
    code: str = ""
    """A stable name of it, for who says it in another language."""
    values: dict[str, Any] = {}
    """What such a text needs; `field` is the field that is to blame."""


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read"},
    401: {"model": Problem, "description": "The token is missing or wrong"},
    403: {"model": Problem, "description": "The page or the host that asks is not allowed"},
    404: {"model": Problem, "description": "There is no such thing"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "A value is not allowed"},
    429: {"model": Problem, "description": "The queue is full"},
}


class Missing(BridgeError):
    """There is no such job or picture."""


class OpenAIError(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    error: OpenAIError


OPENAI_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {**entry, "model": OpenAIProblem} for status, entry in PROBLEMS.items()
}


def problem(path: str, status: int, error: BridgeError | str) -> JSONResponse:
    """An error's response in the shape of the interface that a path belongs to."""
    detail = _valid(as_line(error) if isinstance(error, BridgeError) else error)
    code, values = (error.code, error.values) if isinstance(error, BridgeError) else ("", {})
    if not path.startswith(_OPENAI):
        given = {key: _valid(v) if isinstance(v, str) else v for key, v in values.items()}
        return JSONResponse({"detail": detail, "code": code, "values": given}, status)
    kinds = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
    openai = {
        "message": detail,
        "type": kinds.get(status, "invalid_request_error"),
        "param": None,
        "code": code or None,
    }
    return JSONResponse({"error": openai}, status)


def _valid(text: str) -> str:
    """A client's text may be no valid Unicode."""
    return text.encode(errors="replace").decode()


def add_handlers(app: FastAPI) -> None:
    """Answer every error of an application in one line."""

    @app.exception_handler(BridgeError)
    def refuse(request: Request, error: BridgeError) -> JSONResponse:
        status = 429 if isinstance(error, QueueFull) else 404 if isinstance(error, Missing) else 422
        return problem(request.url.path, status, error)

    @app.exception_handler(RequestValidationError)
    def refuse_values(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(request.url.path, 422, validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        response = problem(request.url.path, error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    def fail(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        failure = BridgeError("the server failed; its log says more", "server_failed")
        return problem(request.url.path, 500, failure)
