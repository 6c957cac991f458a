"""The WSGI edge: one middleware for Flask and every other WSGI app (PEP 3333).

Rule 1: chunks pass one for one; `write`, `exc_info`, `close` and the length of a list mean what they mean
without us.
Rule 2: the event is in the journal before the last byte leaves: with the chunk that reaches the declared
length, or when the iterable ends, which is before a server ends a body without one.
Rule 3: a file wrapper is iterated like any other body. A server's own way around us (sendfile) would leave
bytes uncounted when a client leaves, and an event unwritten when the process is killed.
Rule 4: what a limit cuts ends in StreamCut, as if the client had left: the server closes the connection
with the body unfinished. An upload that is refused on its way is answered by us, whatever the app says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING

from werkzeug.datastructures import Headers

from meter_mw.admission import Answer
from meter_mw.environ import CountedInput, StreamCut, UploadRefused, cut, facts
from meter_mw.exchange import MARK, enter
from meter_mw.journal import NotDurable
from meter_mw.lasting import UNBOUNDED
from meter_mw.meter import METER, Meter
from meter_mw.model import Count
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from meter_mw.admission import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.policy.policy import Policy
    from meter_mw.respond import Body, Fields

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    413: "Content Too Large",
    429: "Too Many Requests",
    503: "Service Unavailable",
}

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
            return [_refuse(self.meter, admission, environ, start_response)[1]]
        exchange = environ[MARK] = self.meter.exchange(admission, request.method)
        environ[METER] = self.meter
        response = _Response(self.meter, exchange, environ, start_response)
        return response.run(self.app, declared=request.declared is not None)


def _path(environ: WSGIEnvironment) -> str:
    """Give the path, whose UTF-8 PEP 3333 has read as latin-1."""
    return str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace")


def _dressed(head: list[tuple[str, str]], fields: Fields, environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """Append fields, and let a script on another origin read them."""
    dressed = [*head, *fields]
    if "HTTP_ORIGIN" in environ:
        headers = Headers(dressed)
        exposing = exposed(", ".join(headers.get_all(_EXPOSING)) or None, fields)
        if exposing is not None:
            headers.set(_EXPOSING, exposing)
            return headers.to_wsgi_list()
    return dressed


def _length(head: list[tuple[str, str]]) -> str | None:
    """Give the Content-Length that an app declares; the first, where it gives several."""
    for name, value in head:
        if name.lower() == "content-length":
            return value
    return None


def _refuse(
    meter: Meter, admission: Admission, environ: WSGIEnvironment, start_response: StartResponse
) -> tuple[int, bytes]:
    """Begin the answer to what is not served; give its status and its body."""
    refusal, fields, body = meter.refuse(admission)
    start_response(f"{refusal.status} {_REASONS[refusal.status]}", _dressed([], fields, environ))
    return refusal.status, b"" if environ["REQUEST_METHOD"] == "HEAD" else body


class _Response:
    """One exchange: counts the request body as it is read, and the response as it is handed on.

    Where an upload may yet be refused, the head of the app's response is held back until its first chunk.
    """

    def __init__(
        self, meter: Meter, exchange: Exchange, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self._meter = meter
        self._exchange = exchange
        self._environ = environ
        self._start_response = start_response
        self._head: Callable[[], Callable[[bytes], object]] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._holds_back = self._under_way = self._over = False
        self.is_cut = False

    def run(self, app: WSGIApplication, *, declared: bool) -> Iterable[bytes]:
        exchange = self._exchange
        exempt = exchange.admission.answer is Answer.EXEMPT
        if not exempt:
            self._holds_back = not declared and exchange.request_room < UNBOUNDED
            stream = self._environ["wsgi.input"]
            self._environ["wsgi.input"] = CountedInput(
                stream, exchange, self._meter.gate, in_steps=self._holds_back
            )
        self._outer = enter(exchange)
        strips = bool(self._meter.policy.told_by_header)
        body: Iterable[bytes] = ()
        try:
            body = app(self._environ, self._start_response if exempt and not strips else self.start)
        except BaseException as failure:
            if not (self.is_refused() and isinstance(failure, Exception)):
                self.end(failure)
                raise
        sized = hasattr(body, "__len__") and not self.is_refused()
        return _SizedBody(body, self) if sized else _Body(body, self)

    def is_refused(self) -> bool:
        return self._exchange.refusal is not None

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        if not self.is_refused():
            self._take_head(status, headers, [exc_info] if exc_info else [])
        return self._counted

    def _take_head(self, status: str, head: list[tuple[str, str]], exc_info: list[ExcInfo]) -> None:
        exchange, meter = self._exchange, self._meter
        exchange.begin(int(status[:3]), _length(head))
        if meter.policy.told_by_header:
            headers = Headers(head)
            for name in exchange.hear(headers.getlist):
                headers.remove(name)
            head = headers.to_wsgi_list()
        dressed = _dressed(head, meter.responder.fields(exchange.admission), self._environ)
        # PEP 3333: exc_info is passed only when there is one; some servers take two arguments.
        self._head = lambda: self._start_response(status, dressed, *exc_info)
        if not self._holds_back or self._under_way:
            self._begin()

    def _counted(self, data: bytes) -> None:
        """Write, as the app's `write`."""
        if self.is_refused() and not self._under_way:
            raise UploadRefused
        data = self.hand_on(data)
        if self._write is not None:
            self._write(data)
        if self.is_cut:
            raise StreamCut

    def _begin(self) -> None:
        """Hand on the head, once it is there."""
        if self._head is not None:
            head, self._head = self._head, None
            self._write = head()

    def go_on(self) -> None:
        """Break off what is cut, or end what has been refused."""
        if self.is_cut:
            raise StreamCut
        if self._over:
            raise StopIteration

    def hand_on(self, chunk: bytes, *, last: bool = False) -> bytes:
        """Count a chunk that is about to leave, or so much of it as its limits let pass."""
        exchange = self._exchange
        self._under_way = True
        if self._head is not None:
            self._begin()
        counted = exchange.clipped(len(chunk))
        if not exchange.goes(counted):
            room = self._meter.gate.lets(exchange, (Count.RESPONSE_BYTES, counted))
            if room is not None:
                self.is_cut = True
                chunk = cut(exchange, chunk, room)
        if last or self.is_cut or exchange.completes():
            self.finish()
        return chunk

    def refuse(self) -> bytes:
        """Answer a refused upload in the app's place; a response that has begun is cut, and charged for."""
        self._over = True
        admission = self._exchange.refusal
        if self._under_way or admission is None:
            self._exchange.refusal = None
            self.is_cut = True
            raise StreamCut
        self._head = None
        status, body = _refuse(self._meter, admission, self._environ, self._start_response)
        self._exchange.status = status
        self.finish()
        return body

    def finish(self) -> None:
        """Close the count before the last byte leaves; where it may not leave, nothing more does."""
        booked = self._meter.finish(self._exchange)
        if booked is not None:
            try:
                self._meter.release(self._exchange, booked)
            except NotDurable:
                self.is_cut = True
                raise

    def end(self, how: BaseException) -> None:
        """Close the count at the end of the app's iterable, or where it failed."""
        if isinstance(how, StopIteration):
            self._begin()
        else:
            self._exchange.status = self._exchange.status or 500
        try:
            if isinstance(how, Exception) and not self._exchange.ended:
                self.finish()  # the server has an answer to it, and the client reads that
        finally:
            self.leave()

    def resume(self) -> None:
        enter(self._exchange)

    def leave(self) -> None:
        if not self._exchange.ended:
            self._meter.abandon(self._exchange)
        enter(self._outer)


class _Body(Iterator[bytes]):
    """The app's iterable, counted as the server takes it."""

    def __init__(self, body: Iterable[bytes], response: _Response) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._response = response

    def __next__(self) -> bytes:
        response = self._response
        response.resume()
        try:
            response.go_on()
            chunk = self._next()
            return response.refuse() if chunk is None else self._hand_on(chunk)
        except BaseException as end:
            response.end(end)
            raise

    def _next(self) -> bytes | None:
        """Give the app's next chunk; none where the upload turns out to be refused."""
        try:
            if self._response.is_refused():
                return None
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
        except Exception:
            if not self._response.is_refused():
                raise
            return None
        return None if self._response.is_refused() else chunk

    def _hand_on(self, chunk: bytes) -> bytes:
        return self._response.hand_on(chunk)

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
        # What is cut must not be taken for the whole.
        return self._length + self._response.is_cut

    def _hand_on(self, chunk: bytes) -> bytes:
        return self._response.hand_on(chunk, last=self._length == 1)
