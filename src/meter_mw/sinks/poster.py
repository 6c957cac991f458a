"""HTTP requests to one destination over one kept connection, for the sinks that speak HTTP.

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

from meter_mw.sinks.answers import Answer, retry_after
from meter_mw.sinks.base import Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_log = logging.getLogger("meter_mw.sinks")

_LONGEST_ANSWER = 1 << 20
# Cloud metadata services outside the link-local networks.
_METADATA = frozenset({ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("fd00:ec2::254")})


class Poster:
    """Sends requests to the origin of one URL, and says what came of each.

    `timeout` bounds each request, in seconds. `ca_file` replaces the system's certificate
    authorities. With `allow_private=False` private and loopback addresses are refused; link-local
    ones, where cloud metadata services live, always are, whatever name resolved to them.
    `target` is the path and query of the URL. Raises `ValueError` for a URL that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        ca_file: Path | None = None,
        allow_private: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            parts = parse_url(url)
        except LocationParseError:
            raise ValueError("the URL, http:// or https://, cannot be read") from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError("the sink needs a URL that begins with http:// or https:// and a host")
        self._host = parts.host
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self.target = parts.request_uri
        self.origin = f"{parts.scheme}://{self._host}:{self._port}"
        self._credentials = make_headers(basic_auth=unquote(parts.auth)) if parts.auth else {}
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._allow_private = allow_private
        self._clock = clock
        self._connection: HTTPConnection | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"Poster({self.origin + '/…'!r})"

    @property
    def name(self) -> str:
        """A name for the URL that gives nothing of its path and query away, the same after a restart."""
        return f"{self.origin}#{sha256(self.target.encode()).hexdigest()[:8]}"

    def post(
        self, body: bytes, fields: Mapping[str, str], *, target: str | None = None
    ) -> Answer | Retry | Unknown:
        """Post a body; see `request`."""
        return self.request("POST", target or self.target, body, fields)

    def request(
        self, method: str, target: str, body: bytes | None, fields: Mapping[str, str]
    ) -> Answer | Retry | Unknown:
        """Send a request, and give its answer.

        `Retry` says that nothing was sent, `Unknown` that the destination may have it all the same.
        """
        try:
            connection = self._connected()
        except (HTTPError, HTTPException, OSError) as error:
            self.close()
            return Retry(reason=f"{self.origin}: not connected: {_of(error)}")
        headers = {"User-Agent": "meter-mw", **self._credentials, **fields}
        try:
            answer = self._exchange(connection, method, target, body, headers)
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            self.close()
            return Unknown(f"{self.origin}: no answer: {_of(error)}")
        if answer.blames_operator:
            _log.error(
                "%s/…: %.300s: check the address and the secret; events wait", self.origin, answer.reason
            )
        return answer

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

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
            _log.error("%s/… leads to %s, where events must not go", self.origin, address)
            raise OSError(f"{address} is not allowed")

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> Answer:
        with self._cut_off(connection):
            connection.request(method, target, body=body, headers=headers, preload_content=False)
            response = connection.getresponse()
            text = response.read(_LONGEST_ANSWER)
            if response.read(1) or response.headers.get("Connection", "").lower() == "close":
                self.close()
        after = retry_after(response.headers.get("Retry-After"), self._clock())
        fields = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, after, text, fields)

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
