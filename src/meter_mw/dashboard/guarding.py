"""Stands before the pages: asks who comes, takes the token from a form, passes on GET and HEAD alone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from starlette.requests import Request

from meter_mw.dashboard.access import COOKIE, COOKIE_S, Access
from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from meter_mw.dashboard.access import Door
    from meter_mw.dashboard.rendering import Renderer

_LARGEST_FORM = 4096
"""Bytes."""

_WHY = {
    Access.DISTANT: "Without a token the dashboard answers nobody but this machine.",
    Access.MISNAMED: "Without a token the dashboard answers by the names localhost, 127.0.0.1 and [::1].",
    Access.FORWARDED: "Without a token the dashboard answers nobody that a proxy brings.",
}
_REMEDY = "Start it with a token: METER_DASHBOARD_TOKEN, or --token; where it is mounted, token=."


class Guard:
    """An ASGI middleware. `clock` gives ns since 1970."""

    def __init__(self, app: ASGIApp, *, door: Door, renderer: Renderer, clock: Callable[[], int]) -> None:
        self._app = app
        self._door = door
        self._renderer = renderer
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise MeterError("the dashboard is asked by HTTP")
        request = Request(scope, receive)
        answer = await self._answered(request)
        await (self._app if answer is None else answer)(scope, receive, send)

    async def _answered(self, request: Request) -> Response | None:
        """Give the answer to a request that does not come to a page."""
        client = request.client.host if request.client else None
        cookie = request.cookies.get(COOKIE)
        access = self._door.asked(client, request.headers, cookie, self._clock() / 1e9)
        if access in _WHY:
            return self._told(request, 403, "Not from here", f"{_WHY[access]} {_REMEDY}")
        if request.method == "POST" and self._door.token is not None:
            return await self._entered(request)
        if access is Access.UNKNOWN:
            return self._asked(request, wrong=False)
        if request.method not in ("GET", "HEAD"):
            answer = self._told(request, 405, "Nothing to change", "The dashboard only shows: GET and HEAD.")
            answer.headers["Allow"] = "GET, HEAD"
            return answer
        return None

    async def _entered(self, request: Request) -> Response:
        """Take the token from the form, wherever it was shown, and go on to that page."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_FORM:
                return self._told(request, 413, "Too large", "Found more than 4 KiB; expected the token.")
        shown = parse_qs(body.decode("latin-1")).get("token", [""])[0]
        if not self._door.knows(shown):
            return self._asked(request, wrong=True)
        root = request.scope.get("root_path", "")
        # One slash and no more: two would begin the name of another site.
        path = "/" + request.scope["path"].lstrip("/\\")
        query = request.scope["query_string"].decode("latin-1")
        answer = self._renderer.redirect(quote(path, safe="/") + (f"?{query}" if query else ""))
        is_secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        answer.set_cookie(
            COOKIE,
            self._door.cookie(self._clock() / 1e9),
            max_age=COOKIE_S,
            path=root or "/",
            secure=is_secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    def _asked(self, request: Request, *, wrong: bool) -> Response:
        """Ask for the token."""
        answer = self._renderer.page(request, "enter", 401, wrong=wrong)
        answer.headers["WWW-Authenticate"] = 'Bearer realm="meter-mw dashboard"'
        return answer

    def _told(self, request: Request, status: int, title: str, why: str) -> Response:
        return self._renderer.page(request, "fault", status, title=title, why=why)
