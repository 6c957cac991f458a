"""The middleware that one writes in an afternoon: it asks whether a key may pass, and answers 429 if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from starlette.types import ASGIApp, Receive, Scope, Send

_START = {"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]}
_BODY = {"type": "http.response.body", "body": b""}


class AsgiByHand:
    """Passes what may pass."""

    def __init__(self, app: ASGIApp, may_pass: Callable[[str], Awaitable[bool]]) -> None:
        self.app = app
        self.may_pass = may_pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask, then pass or refuse."""
        if scope["type"] == "http":
            key = next(value for name, value in scope["headers"] if name == b"x-api-key").decode("latin-1")
            if not await self.may_pass(key):
                await send(_START)
                await send(_BODY)
                return
        await self.app(scope, receive, send)


class WsgiByHand:
    """Passes what may pass."""

    def __init__(self, app: WSGIApplication, may_pass: Callable[[str], bool]) -> None:
        self.app = app
        self.may_pass = may_pass

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Ask, then pass or refuse."""
        if not self.may_pass(environ["HTTP_X_API_KEY"]):
            start_response("429 Too Many Requests", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start_response)
