"""A blocking connection to a Redis server: whatever it waits for, connecting included, ends at a deadline.

Replies are read by hiredis; there is nothing between it and the socket, as a client library's own way there
takes longer than the server does.
"""

from __future__ import annotations

import socket
import time
import weakref
from typing import TYPE_CHECKING

from hiredis import Reader
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import InvalidResponse

from meter_mw.stores.redis_link import FAILURES, Transport, Unreached, greeting, unreached
from meter_mw.stores.redis_protocol import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.stores.redis_link import Address
    from meter_mw.stores.redis_protocol import Call

_LATE = 0.001
"""Seconds by which a wait may outlast its deadline, so that a socket need not be told anew for each call."""

_MORE = object()
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class RedisSocket:
    """One connection; what was left of an exchange that failed is nobody's, so it is to be dropped then."""

    def __init__(self, address: Address, deadline: float) -> None:
        """Connect, and say who we are, before `deadline` by the monotonic clock.

        Raises one of FAILURES: Unreached where the server was not there.
        """
        self._buffer = bytearray(1 << 16)
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_MORE
        )
        self._timeout: float | None = None
        try:
            self._socket = _connected(address, deadline)
        except FAILURES as failure:
            raise unreached(failure) from None
        except ValueError as error:  # a host that cannot be a name
            raise Unreached(str(error)) from None
        weakref.finalize(self, self._socket.close).atexit = False  # where a store is let go of unclosed
        try:
            self._greet(address, deadline)
        except FAILURES as failure:
            self.drop()
            raise unreached(failure) from None

    def _greet(self, address: Address, deadline: float) -> None:
        calls = greeting(address)
        for reply in self.exchange(calls, deadline) if calls else ():
            if isinstance(reply, Exception):
                raise reply

    def exchange(self, calls: Sequence[Call], deadline: float) -> list[object]:
        """Send all calls, and read all replies; error replies are values, but for those of no use at all."""
        self._wait_until(deadline)
        self._socket.sendall(pack(calls))
        gets, replies = self._reader.gets, []
        for _ in calls:
            while (reply := gets()) is _MORE:
                self._wait_until(deadline)
                size = self._socket.recv_into(self._buffer)
                if not size:
                    raise Lost("the connection was closed")
                self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer is one
            if isinstance(reply, Lost):  # LOADING and the like: an answer, but none to the call
                raise reply
            replies.append(reply)
        return replies

    def _wait_until(self, deadline: float) -> None:
        left = _left(deadline)
        if self._timeout is None or not left <= self._timeout <= left + _LATE:
            self._timeout = left + _LATE
            self._socket.settimeout(self._timeout)

    def drop(self) -> None:
        """Close it."""
        self._socket.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this call is over")
    return left


def _connected(address: Address, deadline: float) -> socket.socket:
    """Give a socket at one of the addresses that the host has, the first that answers."""
    options: dict[str, object] = address.options
    if address.transport is Transport.UNIX:
        return _opened(socket.AF_UNIX, str(options["path"]), deadline)
    host, port = str(options.get("host", "localhost")), int(str(options.get("port", 6379)))
    failure = OSError(f"{host} has no address")
    for family, _, _, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            found = _opened(family, target, deadline)
        except OSError as error:
            failure = error.with_traceback(None)
            continue
        return _prepared(found, address, host, deadline)
    raise failure


def _opened(family: int, target: object, deadline: float) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.settimeout(_left(deadline))
        found.connect(target)  # type: ignore[arg-type]  # as its family has it
    except BaseException:
        found.close()
        raise
    return found


def _prepared(found: socket.socket, address: Address, host: str, deadline: float) -> socket.socket:
    """Have it send at once, notice a dead peer, and speak TLS where it is to."""
    try:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if address.tls is None:
            return found
        found.settimeout(_left(deadline))
        return address.tls.get().wrap_socket(found, server_hostname=host)
    except BaseException:
        found.close()
        raise
