"""What WSGI and Django share: the facts of a request (RFC 3875), and its body counted as it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.model import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any
    from wsgiref.types import InputStream

    from meter_mw.exchange import Exchange


def facts(environ: Mapping[str, Any], method: str, path: str) -> Request:
    """Give the facts of a request; servers have joined the values of a field that came twice."""

    def field(name: str) -> list[str]:
        value = environ.get("HTTP_" + name.upper().replace("-", "_"))
        return [] if value is None else [value]

    return Request(
        method=method,
        path=path,
        query=environ.get("QUERY_STRING", ""),
        field=field,
        peer=environ.get("REMOTE_ADDR") or None,
    )


class CountedInput:
    """A request body under WSGI, counted as the app reads it, by whichever method the stream has."""

    def __init__(self, stream: InputStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def __getattr__(self, name: str) -> object:
        found: Callable[..., object] = getattr(self._stream, name)
        if name not in _READS:
            return found

        def counted(*sizes: object) -> object:
            taken = found(*sizes)
            self._exchange.request_bytes += _size(taken)
            return taken

        return counted

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._stream.readline()
        if not line:
            raise StopIteration
        self._exchange.request_bytes += len(line)
        return line


_READS = frozenset({"read", "read1", "readinto", "readinto1", "readline", "readlines"})


def _size(taken: object) -> int:
    """Give the bytes that a read has taken: it returns them, their lines, or their number."""
    match taken:
        case bytes():
            return len(taken)
        case list():
            return sum(map(len, taken))
        case _:
            return taken if isinstance(taken, int) else 0
