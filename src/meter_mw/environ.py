"""What WSGI and Django share: the facts of a request (RFC 3875), and bodies held to their limits."""

from __future__ import annotations

import errno
from functools import lru_cache
from typing import TYPE_CHECKING

from meter_mw.model import Count, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any
    from wsgiref.types import InputStream

    from meter_mw.exchange import Exchange
    from meter_mw.gate import Gate
    from meter_mw.lasting import Room

_STEP = 64 * 1024
"""The bytes of an upload of unknown length that are read before it is asked whether they fit."""

_FRAMED = ("HTTP/2", "HTTP/3")

_PLAIN = frozenset({"content-type", "content-length"})
"""Fields whose variables have no prefix; they may be there and empty (RFC 3875, section 4.1.2)."""


class StreamCut(BrokenPipeError):
    """The end of a response that a limit cuts: a server breaks it off, as if the client had left."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "a limit lets no more of this response pass")


class UploadRefused(OSError):
    """What reading a request body raises that its limit lets no further; the client is told why."""

    def __init__(self) -> None:
        super().__init__(errno.EDQUOT, "a limit lets no more of this upload pass")


@lru_cache(maxsize=256)
def _variable(name: str) -> str:
    """Give what a field is known as in an environ (RFC 3875, section 4.1.18)."""
    variable = name.upper().replace("-", "_")
    return variable if name in _PLAIN else f"HTTP_{variable}"


def facts(environ: Mapping[str, Any], method: str, path: str) -> Request:
    """Give the facts of a request; servers have joined the values of a field that came twice."""

    def field(name: str) -> Sequence[str]:
        value = environ.get(_variable(name))
        return () if value is None or (not value and name in _PLAIN) else (value,)

    return Request(
        method=method,
        path=path,
        query=environ.get("QUERY_STRING", ""),
        field=field,
        peer=environ.get("REMOTE_ADDR") or None,
        frames=environ.get("SERVER_PROTOCOL", "").startswith(_FRAMED),
    )


def cut(exchange: Exchange, chunk: bytes, room: Room) -> bytes:
    """Count and give what may still pass of a chunk of response, and note the limits that let no more."""
    exchange.stopped(room.denied_by)
    left = max(room.passes, exchange.response_room) - exchange.response_bytes
    chunk = chunk[: max(0, left)]
    exchange.count(Count.RESPONSE_BYTES, len(chunk))
    return chunk


class CountedInput:
    """A request body under WSGI, counted as the app reads it, by whichever method the stream has.

    What has been read and does not fit is neither handed on nor counted: the read raises UploadRefused.
    `in_steps` says that the length of the body is not known, so that however much is asked for at once,
    little is read beyond what fits.
    """

    def __init__(self, stream: InputStream, exchange: Exchange, gate: Gate, *, in_steps: bool) -> None:
        self._stream = stream
        self._exchange = exchange
        self._gate = gate
        if in_steps:
            self.read, self.readline, self.readlines = self._read, self._readline, self._readlines

    def __getattr__(self, name: str) -> object:
        found: Callable[..., object] = getattr(self._stream, name)
        if name not in _READS:
            return found

        def counted(*sizes: object) -> object:
            self._go_on()
            taken = found(*sizes)
            self._count(_size(taken))
            return taken

        return counted

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._readline()
        if not line:
            raise StopIteration
        return line

    def _read(self, size: int | None = -1) -> bytes:
        return self._stepped(self._stream.read, size, lambda _: False)

    def _readline(self, size: int | None = -1) -> bytes:
        return self._stepped(self._stream.readline, size, lambda piece: piece.endswith(b"\n"))

    def _readlines(self, hint: int | None = -1) -> list[bytes]:
        lines, size = [], 0
        while line := self._readline():
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def _stepped(
        self, read: Callable[[int], bytes], size: int | None, ends: Callable[[bytes], bool]
    ) -> bytes:
        """Read by steps; a piece that is shorter than asked for is the last, or all there is for now."""
        wanted = None if size is None or size < 0 else size
        pieces: list[bytes] = []
        while wanted is None or wanted > 0:
            self._go_on()
            step = _STEP if wanted is None else min(wanted, _STEP)
            piece = read(step)
            self._count(len(piece))
            pieces.append(piece)
            if not piece or ends(piece) or (wanted is not None and len(piece) < step):
                break
            wanted = None if wanted is None else wanted - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _go_on(self) -> None:
        if self._exchange.refusal is not None:
            raise UploadRefused

    def _count(self, size: int) -> None:
        room = self._gate.lets(self._exchange, (Count.REQUEST_BYTES, size), refuses=True)
        if room is not None:
            self._exchange.refuse(room)
            raise UploadRefused


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
