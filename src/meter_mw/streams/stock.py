"""A Redis stream as a stock: a share for each sink, and the sign of life of this process."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from meter_mw.sinks.redis_line import RedisLine, Refused
from meter_mw.streams import scripts
from meter_mw.streams.supply import FAILURES, Place, StreamSupply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.sinks.redis_line import Script

_log = logging.getLogger("meter_mw.streams")

LEASE = 15.0
"""Seconds without a sign of life, after which others take over what a process has in hand."""

_POLL = 0.05


class StreamStock:
    """The events of one stream, for sinks by their names. Thread-safe.

    Any number of processes may have one of the same stream and sinks. `timeout` bounds each call in
    seconds. Connects at the first call. Raises `ValueError` for a URL or stream that cannot be used.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        sinks: Sequence[str],
        *,
        timeout: float = 10.0,
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._clock = clock
        host = socket.gethostname().replace("/", "-")
        consumer = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._place = Place(stream, consumer, lease, tuple(sinks))
        self._line = RedisLine(url, timeout)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"StreamStock({self._line.place!r}, {self._place.stream!r})"

    def supply(self, sink: str, *, durable: bool) -> StreamSupply:  # noqa: ARG002 - durable is how the server is set up
        """Begin a sink's share anew, by the sink's name."""
        with self._lock:
            self._begin()
        return StreamSupply(RedisLine(self._url, self._timeout), self._place, sink, self._clock)

    def due(self) -> Callable[[float], bool]:
        """Note the last entry; give a call that waits until every sink has all up to it."""
        last = self._last()

        def arrived(timeout: float) -> bool:
            nonlocal last
            deadline = time.monotonic() + timeout
            while True:
                last = self._last() if last is None else last
                if last is not None and self._have_all(last):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(left, _POLL))

        return arrived

    def release(self) -> None:
        """End the lease, so that others need not wait for its end."""
        self._ended.set()
        if self._beating is not None:
            self._beating.join(self._timeout)
        try:
            with self._lock:
                self._line.call("DEL", self._place.alive(self._place.consumer))
        except FAILURES as failure:
            _log.info("%s: others wait for the end of our lease: %s", self._place.stream, failure)
        with self._lock:
            self._line.close()

    def _begin(self) -> None:
        """Have the groups, all of them before any is served, and a sign of life while there is a supply."""
        for group in self._place.groups:
            try:
                self._line.call("XGROUP", "CREATE", self._place.stream, group, "0", "MKSTREAM")
            except Refused as refusal:
                if refusal.word != "BUSYGROUP":
                    _log.error("%s: no group for %s yet: %s", self._place.stream, group, refusal)
            except FAILURES as failure:
                _log.error("%s: no group for %s yet: %s", self._place.stream, group, failure)
                break
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, name="meter-mw-lease", daemon=True)
            self._beating.start()

    def _beat(self) -> None:
        alive = self._place.alive(self._place.consumer)
        while not self._ended.is_set():
            try:
                self._run(scripts.BEAT, [self._place.lease_ms], alive)
            except FAILURES as failure:
                _log.debug("%s: no sign of life: %s", self._place.stream, failure)
            self._ended.wait(self._place.lease / 3)

    def _last(self) -> str | None:
        """Give the id of the entry that was added last; None where the server does not tell."""
        try:
            with self._lock:
                found = self._line.call("XINFO", "STREAM", self._place.stream)
        except Refused as refusal:
            return "0-0" if "no such key" in str(refusal) else None
        except FAILURES:
            return None
        named = dict(zip(found[::2], found[1::2], strict=True)) if isinstance(found, list) else {}
        return bytes(named[b"last-generated-id"]).decode()

    def _have_all(self, last: str) -> bool:
        try:
            return bool(self._run(scripts.ARRIVED, [last, *self._place.groups]) == 1)
        except FAILURES:
            return False

    def _run(self, script: Script, arguments: Sequence[object], *keys: str) -> Any:
        place = self._place
        with self._lock:
            return self._line.run(script, [place.stream, place.hand(place.groups[0]), *keys], arguments)
