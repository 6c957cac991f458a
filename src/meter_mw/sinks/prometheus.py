"""The `prometheus` sink: usage as counters on an address that Prometheus asks, to watch and not to bill.

The counters are of one process and begin at zero with it. One process can have the address: of several
workers of an app only one is seen, and `forwarder: daemon` is the way to see all.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, start_http_server

from meter_mw.ledger.records import Record
from meter_mw.sinks.base import Delivered, Outcome
from meter_mw.sinks.kinds import Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.series import LABELS, labels_of, observed, tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

_log = logging.getLogger("meter_mw.sinks")


class PrometheusSink:
    """Counts what it is sent, and shows it at `http://host:port/metrics` from the first event on.

    Where the address is taken it says so once, and goes on counting until it gets it.
    """

    max_batch = 1000
    horizon = None

    def __init__(self, address: str, fields: Sequence[str], *, labels: Sequence[str] = ("route",)) -> None:
        self._host, self._port = _split(address)
        self._fields = tuple(fields)
        self._labels = tuple(labels)
        self._server: tuple[WSGIServer, Thread] | None = None
        self._begin()
        self.name = f"prometheus:{address}"

    def __repr__(self) -> str:
        return f"PrometheusSink({f'{self._host}:{self._port}'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Count the batch."""
        self._forget_parent()
        self._serve()
        entries = [observed(payload) for payload in batch]
        records = [entry for entry in entries if isinstance(entry, Record)]
        for (field, values), units in tally(records, self._fields, self._labels).items():
            counter = self._counters[field]
            (counter.labels(*values) if values else counter).inc(units)
        return [Delivered() if isinstance(entry, Record) else entry for entry in entries]

    def close(self) -> None:
        """Give the address back; counts are kept for as long as the process lives."""
        self._forget_parent()
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._has_complained = False
        self._registry = CollectorRegistry()
        self._counters = {
            field: Counter(f"meter_mw_{field}", f"Units of {field}", self._labels, registry=self._registry)
            for field in self._fields
        }

    def _forget_parent(self) -> None:
        """In a child, let go of the parent's socket and count from zero: the parent shows what it counted."""
        if self._pid != os.getpid():
            if self._server is not None:
                self._server[0].socket.close()
                self._server = None
            self._begin()

    def _serve(self) -> None:
        if self._server is not None:
            return
        try:
            self._server = start_http_server(self._port, self._host, self._registry)
        except OSError as error:
            if not self._has_complained:
                _log.error(
                    "%s is not served: %s: what this process counts is not seen; where several processes"
                    " forward, have one do it (forwarder: daemon)",
                    self.name,
                    error.strerror,
                )
                self._has_complained = True


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _fault_of_address(text: str) -> str | None:
    with contextlib.suppress(ValueError):
        host, port = _split(text)
        if host and 0 < port < 65536 and text.isprintable() and " " not in text:
            return None
    return "the address has no host or no port; expected one such as 127.0.0.1:9464"


def _open(settings: Settings, service: Service) -> PrometheusSink:
    return PrometheusSink(
        settings.text("prometheus"), service.fields, labels=labels_of(settings.text("labels"))
    )


KIND = SinkKind(
    "prometheus",
    Option(Form.TEXT, "an address such as 127.0.0.1:9464", needed=True, fault=_fault_of_address),
    {"labels": LABELS},
    _open,
    for_billing=False,
)
