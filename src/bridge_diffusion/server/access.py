"""Who may ask what, before any other code sees a request: hosts, pages, tokens, sizes of bodies."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.errors import problem
from bridge_diffusion.server.settings import LOOPBACK

COOKIE = "bdm_token"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'self'"
    ),
}


class Gate:
    """Lets through what is allowed.

    Without a token only requests to a loopback host name are answered, so that a page of the
    internet whose name suddenly points here (DNS rebinding) gets nothing. No page of another
    origin may change anything, and none may read: there are no CORS headers.
    """

    def __init__(self, app: ASGIApp, *, token: str, most_body: int) -> None:
        self._app = app
        self._token = token
        self._most_body = most_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        response = self._refusal(scope, headers)
        if response is not None:
            await response(scope, receive, _with_headers(send))
        else:
            await self._app(scope, self._counted(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        path = scope["path"]
        if self._token:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            given = query.get("token", [""])[0]
            if path == "/" and scope["method"] == "GET" and given and self._is_token(given):
                return self._signed_in()
            if not any(map(self._is_token, _tokens(headers))):
                line = "give the server's token: Authorization: Bearer TOKEN"
                response = problem(path, 401, BridgeError(line, "token"))
                # Programs that know basic authentication only give it as the password.
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
        elif _name_of(headers.get("host", "")) not in LOOPBACK:
            return problem(path, 403, "ask for localhost or 127.0.0.1; other names need a token")
        if scope["method"] not in _SAFE_METHODS and _is_foreign(headers):
            return problem(path, 403, "a page of another origin may not do this")
        length = headers.get("content-length", "0")
        if length.isdecimal() and len(length) < 20 and int(length) > self._most_body:
            most = self._most_body // 2**20
            return problem(path, 413, BridgeError(self._too_large(), "body_too_large", most=most))
        return None

    def _signed_in(self) -> Response:
        """Takes the token out of the address bar into a cookie that scripts cannot read."""
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _counted(self, receive: Receive) -> Receive:
        """Ends a body that goes on beyond the limit, whatever its header said."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most_body:
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"the body is too large; at most {self._most_body} bytes"


def _tokens(headers: Headers) -> list[str]:
    """What a request shows: a bearer's token, the password of basic authentication, a cookie."""
    found = []
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        found.append(value.strip())
    elif kind.lower() == "basic":
        with suppress(binascii.Error, UnicodeDecodeError):
            found.append(base64.b64decode(value).decode().partition(":")[2])
    try:
        cookies: Mapping[str, object] = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return found
    if COOKIE in cookies:
        found.append(cookies[COOKIE].value)  # type: ignore[attr-defined]
    return found


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another origin asks; programs send neither header."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


def _name_of(host: str) -> str:
    """A Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
