"""A reader of the pages: asks by HTTP, keeps cookies, and sees the structure of what it is shown."""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Reader:
    """Asks an app from an address, by a name."""

    def __init__(
        self, app: Starlette, *, client: str = "127.0.0.1", base: str = "http://127.0.0.1:9310"
    ) -> None:
        self._app = app
        self._client = client
        self._base = base
        self.cookies = httpx.Cookies()

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        """Give the answer; a redirect is not followed."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=(self._client, 4711))
            async with httpx.AsyncClient(
                transport=transport, base_url=self._base, cookies=self.cookies
            ) as browser:
                answer = await browser.request(method, path, **more)
                self.cookies = browser.cookies
                return answer

        return asyncio.run(asked())

    def close(self) -> None:
        """End the app, as its server does."""

        async def ended() -> None:
            async with self._app.router.lifespan_context(self._app):
                pass

        asyncio.run(ended())

    def page(self, path: str) -> Page:
        """Give a page that is there."""
        answer = self.ask(path)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)


class Page(HTMLParser):
    """What a page says, and how it is made."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._silent += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words += f" {data}"

    @property
    def text(self) -> str:
        """The words that are read, with single spaces."""
        return " ".join(self.words.split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Give the attributes of every element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        """Where it leads."""
        return [each["href"] for each in self.all("a")]
