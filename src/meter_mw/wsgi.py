"""The WSGI edge: one middleware for Flask and every other WSGI app (PEP 3333).

Rule 1: chunks pass one for one; `write`, `exc_info`, `close` and the length of a list mean what they mean
without us.
Rule 2: the event is in the journal before the last byte leaves: with the chunk that reaches the declared
length, or when the iterable ends, which is before a server ends a body without one.
Rule 3: a file wrapper is iterated like any other body. A server's own way around us (sendfile) would leave
bytes uncounted when a client leaves, and an event unwritten when the process is killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING

from werkzeug.datastructures import Headers

from meter_mw.core import Answer
from meter_mw.environ import CountedInput, facts
from meter_mw.exchange import MARK, enter
from meter_mw.meter import Meter
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from meter_mw.exchange import Exchange
    from meter_mw.policy.policy import Policy
    from meter_mw.respond import Body, Fields

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_REASONS = {400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests", 503: "Service Unavailable"}

_EXPOSING = "Access-Control-Expose-Headers"


class MeterMiddleware:
    """Meters every request of a WSGI app.

    `policy` is a path, a mapping of the same shape or a loaded Policy; without one METER_POLICY names the
    file, else `meter.yaml`. `refusal` replaces the body of refusals. Raises PolicyError at start-up for a
    policy that is wrong.
    """

    def __init__(
        self,
        app: WSGIApplication,
        policy: str | Path | Mapping[str, object] | Policy | None = None,
        *,
        refusal: Body | None = None,
    ) -> None:
        self.app = app
        self.meter = Meter(policy, refusal=refusal)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Count a request that is not counted yet."""
        if MARK in environ:
            return self.app(environ, start_response)
        request = facts(environ, environ["REQUEST_METHOD"], _path(environ))
        admission = self.meter.admit(request)
        if not admission.serves:
            refusal, fields, body = self.meter.refuse(admission)
            headers = Headers()
            _add(fields, headers, environ)
            start_response(f"{refusal.status} {_REASONS[refusal.status]}", headers.to_wsgi_list())
            return [b"" if request.method == "HEAD" else body]
        exchange = environ[MARK] = self.meter.exchange(admission, request.method)
        return _Response(self.meter, exchange, environ, start_response).run(self.app)


def _path(environ: WSGIEnvironment) -> str:
    """Give the path, whose UTF-8 PEP 3333 has read as latin-1."""
    return str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace")


def _add(fields: Fields, headers: Headers, environ: WSGIEnvironment) -> None:
    """Append fields, and let a script on another origin read them."""
    for name, value in fields:
        headers.add(name, value)
    if "HTTP_ORIGIN" in environ:
        exposing = exposed(", ".join(headers.get_all(_EXPOSING)) or None, fields)
        if exposing is not None:
            headers.set(_EXPOSING, exposing)


class _Response:
    """One exchange: counts the request body as it is read, and the response as it is handed on."""

    def __init__(
        self, meter: Meter, exchange: Exchange, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self._meter = meter
        self._exchange = exchange
        self._environ = environ
        self._start_response = start_response

    def run(self, app: WSGIApplication) -> Iterable[bytes]:
        exempt = self._exchange.admission.answer is Answer.EXEMPT
        if not exempt:
            self._environ["wsgi.input"] = CountedInput(self._environ["wsgi.input"], self._exchange)
        self._outer = enter(self._exchange)
        try:
            body = app(self._environ, self._start_response if exempt else self.start)
        except BaseException:
            self.fail()
            self.leave()
            raise
        return _SizedBody(body, self) if isinstance(body, Sized) else _Body(body, self)

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        exchange, head = self._exchange, Headers(headers)
        exchange.begin(int(status[:3]), head.get("Content-Length"))
        _add(self._meter.responder.fields(exchange.admission), head, self._environ)
        # PEP 3333: exc_info is passed only when there is one; some servers take two arguments.
        write = self._start_response(status, head.to_wsgi_list(), *([exc_info] if exc_info else []))

        def counted(data: bytes) -> object:
            self.passes(len(data))
            return write(data)

        return counted

    def passes(self, size: int) -> None:
        self._exchange.passes(size)
        if self._exchange.completes():
            self.finish()

    def finish(self) -> None:
        self._meter.finish(self._exchange)

    def fail(self) -> None:
        self._exchange.status = self._exchange.status or 500
        self.finish()

    def resume(self) -> None:
        enter(self._exchange)

    def leave(self) -> None:
        self.finish()
        enter(self._outer)


class _Body(Iterator[bytes]):
    """The app's iterable, counted as the server takes it."""

    def __init__(self, body: Iterable[bytes], response: _Response) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._response = response

    def __next__(self) -> bytes:
        self._response.resume()
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
        except BaseException as end:
            if not isinstance(end, StopIteration):
                self._response.fail()
            self._response.leave()
            raise
        self._response.passes(len(chunk))
        return chunk

    def close(self) -> None:
        """Close the app's iterable; whatever that raises, the exchange is finished."""
        self._response.resume()
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._response.leave()


class _SizedBody(_Body):
    """A list or the like: servers derive a length from a body of one chunk (PEP 3333)."""

    def __init__(self, body: Iterable[bytes], response: _Response) -> None:
        super().__init__(body, response)
        self._length = len(body) if isinstance(body, Sized) else 0

    def __len__(self) -> int:
        return self._length
