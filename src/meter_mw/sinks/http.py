"""The `http` sink: usage events as CloudEvents batches, signed as Standard Webhooks.

A batch is one POST of `application/cloudevents-batch+json` (CloudEvents 1.0.2, HTTP binding, 3.3).
Redirects are not followed, proxies of the environment not used, certificates verified, and a
server that dribbles its answer is cut off after the timeout.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from hashlib import sha256
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import unquote

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import make_headers, parse_url

from meter_mw.sinks.answers import Answer, outcomes, retry_after
from meter_mw.sinks.base import Outcome, Retry, Unknown
from meter_mw.sinks.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_log = logging.getLogger("meter_mw.sinks")

_LONGEST_ANSWER = 1 << 20
# Cloud metadata services outside the link-local networks.
_METADATA = frozenset({ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("fd00:ec2::254")})


class HttpSink:
    """Posts batches to one URL over one kept connection.

    `timeout` bounds each attempt, in seconds. `ca_file` replaces the system's certificate
    authorities. With `allow_private=False` private and loopback addresses are refused; link-local
    ones, where cloud metadata services live, always are, whatever name resolved to them.
    Raises `ValueError` for a URL or secret that cannot be used.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        timeout: float = 10.0,
        *,
        name: str | None = None,
        max_batch: int = 100,
        ca_file: Path | None = None,
        allow_private: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            parts = parse_url(url)
        except LocationParseError:
            raise ValueError("the URL of the http sink cannot be read") from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError("the http sink needs a URL that begins with http:// or https:// and a host")
        self.max_batch = max_batch
        self._host = parts.host
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._target = parts.request_uri
        self._origin = f"{parts.scheme}://{self._host}:{self._port}"
        self.name = name or f"{self._origin}#{sha256(self._target.encode()).hexdigest()[:8]}"
        self._signer = Signer(secret) if secret is not None else None
        self._credentials = make_headers(basic_auth=unquote(parts.auth)) if parts.auth else {}
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._allow_private = allow_private
        self._clock = clock
        self._connection: HTTPConnection | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"HttpSink({self._origin + '/…'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Post the batch, in halves where an event of it is refused.

        After an attempt that failed as a whole, nothing more of the batch is sent this time.
        """
        found: list[Outcome] = []
        stack = [batch] if batch else []
        while stack:
            part = stack.pop()
            answer = self._attempt(part)
            if isinstance(answer, Answer):
                if answer.divides and len(part) > 1:
                    middle = len(part) // 2
                    stack += [part[middle:], part[:middle]]
                    continue
                found += outcomes(answer, part)
                if answer.accepts or answer.divides:
                    continue
            else:
                found += [answer] * len(part)
            after = found[-1].after if isinstance(found[-1], Retry) else None
            found += [Retry(after, "not sent: the attempt before it failed")] * (len(batch) - len(found))
            break
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _attempt(self, batch: Sequence[bytes]) -> Answer | Retry | Unknown:
        try:
            connection = self._connected()
        except (HTTPError, HTTPException, OSError) as error:
            self.close()
            return Retry(reason=f"{self._origin}: not connected: {_of(error)}")
        try:
            answer = self._post(connection, b"[" + b",".join(batch) + b"]")
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            self.close()
            return Unknown(f"{self._origin}: no answer: {_of(error)}")
        if answer.blames_operator:
            _log.error("%r: %.300s: check URL and secret; events wait in the journal", self, answer.reason)
        return answer

    def _connected(self) -> HTTPConnection:
        """Return the connection of this process, checked for where it leads."""
        if self._pid != os.getpid():
            self.close()
            self._pid = os.getpid()
        if self._connection is not None and self._connection.is_connected:
            return self._connection
        self.close()
        connection = (
            HTTPSConnection(self._host, self._port, timeout=self._timeout, ssl_context=self._tls)
            if self._tls
            else HTTPConnection(self._host, self._port, timeout=self._timeout)
        )
        self._connection = connection
        with self._cut_off(connection):
            connection.connect()
        self._check_peer(connection)
        return connection

    def _check_peer(self, connection: HTTPConnection) -> None:
        """Raise `OSError` before a byte of a batch goes where none may go (DNS rebinding included)."""
        peer = ipaddress.ip_address(connection.sock.getpeername()[0].partition("%")[0])
        address = getattr(peer, "ipv4_mapped", None) or peer
        forbidden = address.is_link_local or address.is_multicast or address in _METADATA
        if forbidden or not (self._allow_private or address.is_global):
            _log.error("%r leads to %s, where events must not go", self, address)
            raise OSError(f"{address} is not allowed")

    def _post(self, connection: HTTPConnection, body: bytes) -> Answer:
        headers = {
            "Content-Type": "application/cloudevents-batch+json; charset=utf-8",
            "User-Agent": "meter-mw",
            **self._credentials,
            **(self._signer.headers(body, self._clock()) if self._signer else {}),
        }
        with self._cut_off(connection):
            connection.request("POST", self._target, body=body, headers=headers, preload_content=False)
            response = connection.getresponse()
            text = response.read(_LONGEST_ANSWER)
            if response.read(1) or response.headers.get("Connection", "").lower() == "close":
                self.close()
        after = retry_after(response.headers.get("Retry-After"), self._clock())
        return Answer(response.status, after, text)

    @contextlib.contextmanager
    def _cut_off(self, connection: HTTPConnection) -> Iterator[None]:
        """Hang up when the timeout is over: a socket's own timeout starts anew with each byte.

        Raises `TimeoutError` then, as half a header section can pass for a whole one.
        """
        late = threading.Event()

        def hang_up() -> None:
            late.set()
            _hang_up(connection)

        timer = threading.Timer(self._timeout, hang_up)
        timer.daemon = True
        # No thread can be started while the interpreter ends; the socket's own timeout remains.
        with contextlib.suppress(RuntimeError):
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError(f"no whole answer within {self._timeout} s")


def _hang_up(connection: HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError, ValueError):
        twin = socket.socket(fileno=os.dup(connection.sock.fileno()))
        with twin:
            twin.shutdown(socket.SHUT_RDWR)


def _of(error: Exception) -> str:
    return f"{type(error).__name__}: {error!s:.200}"
