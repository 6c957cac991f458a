"""A client that says what is written here, byte for byte, and counts what comes back."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Answer:
    """What came back: body bytes without their framing, each piece with the seconds until it came.

    `status` is 0 when the server said nothing. `whole` says whether the body ended as its framing says, and
    `excess` how many bytes came after that end.
    """

    status: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    whole: bool = False
    continued: bool = False
    excess: int = 0

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)

    @property
    def received(self) -> int:
        return sum(len(piece) for _, piece in self.pieces)

    def all(self, name: str) -> list[str]:
        """Give every value of a field."""
        return [value for known, value in self.fields if known == name.lower()]

    def get(self, name: str) -> str | None:
        """Give the values of a field as one, as RFC 9110, section 5.3, joins them."""
        return ", ".join(self.all(name)) or None


def request(
    method: str,
    target: str,
    fields: Iterable[tuple[str, str]] = (),
    body: bytes | tuple[bytes, ...] = b"",
    *,
    kept: bool = False,
) -> bytes:
    """Write a request; a tuple is sent chunked. The server closes the connection that is not to be `kept`."""
    lines = [f"{method} {target} HTTP/1.1", "Host: subject"]
    lines += [] if kept else ["Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields]
    if isinstance(body, tuple):
        lines.append("Transfer-Encoding: chunked")
        tail = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in body) + b"0\r\n\r\n"
    else:
        tail = body
        if body or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + tail


def talk(port: int, raw: bytes, *, method: str = "GET", leave_after: int | None = None) -> Answer:
    """Send raw bytes on a connection of its own and read the answer, or leave after some of its body."""
    with connect(port) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(raw)
        return listen(peer, method, leave_after)


def connect(port: int) -> socket.socket:
    """Open a connection whose receive buffer holds little, so that what is read is what has come."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    peer.settimeout(30)
    peer.connect(("127.0.0.1", port))
    return peer


def listen(peer: socket.socket, method: str, leave_after: int | None = None) -> Answer:
    """Read one answer from a connection."""
    parser, answer, began = _parser(method), Answer(), time.monotonic()
    while True:
        try:
            data = peer.recv(65536)
        except ConnectionError:
            return answer
        try:
            parser.receive_data(data)
            if _take(parser, answer, time.monotonic() - began) or not data:
                answer.excess = _excess(peer, parser)
                return answer
        except h11.RemoteProtocolError:
            return answer
        if leave_after is not None and answer.received >= leave_after:
            return answer


def _parser(method: str) -> h11.Connection:
    parser = h11.Connection(h11.CLIENT)
    known = method if method in ("HEAD", "GET") else "POST"
    parser.send(h11.Request(method=known, target="/", headers=[("Host", "subject")]))
    parser.send(h11.EndOfMessage())
    return parser


def _excess(peer: socket.socket, parser: h11.Connection) -> int:
    """Read to the end of the connection, which the server is asked to close, and count what comes."""
    size = len(parser.trailing_data[0])
    with contextlib.suppress(ConnectionError):
        while data := peer.recv(65536):
            size += len(data)
    return size


def _take(parser: h11.Connection, answer: Answer, elapsed: float) -> bool:
    """Take what has been parsed; say whether the answer is at its end."""
    while True:
        event = parser.next_event()
        match event:
            case h11.InformationalResponse():
                answer.continued = True
            case h11.Response():
                answer.status = event.status_code
                answer.fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            case h11.Data():
                answer.pieces.append((elapsed, bytes(event.data)))
            case h11.EndOfMessage():
                answer.whole = True
                return True
            case _:
                return isinstance(event, h11.ConnectionClosed)
