"""Pages as HTML: from templates that escape everything, with fields that let a browser do little.

Rule 1: a page runs no script and loads nothing, from anywhere; its style sheet is in it, under a nonce.
Rule 2: no page is kept by a browser, shown in a frame, or told of to another site.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from meter_mw.dashboard import plots, wording

if TYPE_CHECKING:
    from starlette.requests import Request

_FIELDS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY = (
    "default-src 'none'; style-src 'nonce-{}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Renderer:
    """Makes pages of one service."""

    def __init__(self, service: str) -> None:
        self._templates = Environment(
            loader=PackageLoader("meter_mw.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"plots": plots, "service": service}
        for name in ("number", "size", "amount", "share", "length", "away", "moment", "day", "field"):
            self._templates.filters[name] = getattr(wording, name)
        self._templates.filters |= {"kind": wording.kind, "quota": wording.quota}

    def page(self, request: Request, name: str, status: int = 200, **told: object) -> Response:
        """Give a page by the name of its template."""
        nonce = secrets.token_urlsafe(16)
        root = request.scope.get("root_path", "")

        def to(path: str, **asked: object) -> str:
            query = {key: value for key, value in asked.items() if value not in (None, "")}
            return quote(root, safe="/") + path + (f"?{urlencode(query)}" if query else "")

        text = self._templates.get_template(f"{name}.html").render(here=name, to=to, nonce=nonce, **told)
        return HTMLResponse(text, status, {**_FIELDS, "Content-Security-Policy": _POLICY.format(nonce)})

    def redirect(self, path: str) -> Response:
        """Send a browser to another page of ours, by GET."""
        return RedirectResponse(path, 303, _FIELDS)
