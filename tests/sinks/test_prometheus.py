"""The prometheus sink, asked as Prometheus asks."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meter_mw.sinks import Delivered, Permanent
from meter_mw.sinks.prometheus import KIND, PrometheusSink
from support.ledgers import usage
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = ("requests", "response_bytes", "tokens")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def sink(port: int) -> Iterator[PrometheusSink]:
    sink = PrometheusSink(f"127.0.0.1:{port}", FIELDS, labels=("route", "status"))
    yield sink
    sink.close()


def shown(port: int) -> dict[tuple[str, ...], float]:
    """Give the counters as they are shown: the name, the labels' values, the count."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def test_counters_grow_with_what_comes(port: int, sink: PrometheusSink) -> None:
    """Units are counted by field and labels; what takes away, and what bills nothing, is left out."""
    batch = [
        usage(1, status=200, response_bytes=5),
        usage(2, status=200, response_bytes=2**40),
        usage(3, route="w", tokens=7, requests=0),
        usage(4, kind="meter_mw.adjustment.v1", requests=-1, tokens=1),
        usage(5, kind="meter_mw.threshold.v1", requests=3),
    ]
    assert list(sink.send(batch)) == [Delivered()] * 5
    assert isinstance(sink.send([b"{"])[0], Permanent)
    assert shown(port) == {
        ("meter_mw_requests_total", "r", "200"): 2,
        ("meter_mw_response_bytes_total", "r", "200"): 2**40 + 5,
        ("meter_mw_tokens_total", "w", ""): 7,
    }
    thread = threading.Thread(target=sink.send, args=([usage(6, status=200)],))
    thread.start()
    thread.join()
    assert shown(port)["meter_mw_requests_total", "r", "200"] == 3


def test_without_labels_there_is_one_series(port: int) -> None:
    """No label is a choice too."""
    sink = PrometheusSink(f"127.0.0.1:{port}", FIELDS, labels=())
    sink.send([usage(1), usage(2, subject="globex")])
    assert shown(port)["meter_mw_requests_total",] == 2
    sink.close()


def test_it_opens_again_and_counts_on(port: int, sink: PrometheusSink) -> None:
    """Closed, it answers nobody; the next event brings it back with its counts."""
    sink.send([usage(1, status=200)])
    sink.close()
    sink.close()
    with pytest.raises(httpx.ConnectError):
        shown(port)
    sink.send([usage(2, status=200)])
    assert shown(port) == {("meter_mw_requests_total", "r", "200"): 2}


def test_a_taken_address_is_said_once(
    port: int, sink: PrometheusSink, caplog: pytest.LogCaptureFixture
) -> None:
    """A sibling has the address: events go on, and when it is free this process is seen."""
    sibling = PrometheusSink(f"127.0.0.1:{port}", FIELDS)
    sibling.send([usage(1)])
    for number in range(3):
        assert list(sink.send([usage(number)])) == [Delivered()]
    assert caplog.text.count("is not served: Address already in use") == 1
    assert "forwarder: daemon" in caplog.text
    sibling.close()
    sink.send([usage(9)])
    assert shown(port) == {("meter_mw_requests_total", "r", ""): 4}


def test_a_child_counts_from_zero(port: int, sink: PrometheusSink) -> None:
    """The parent shows what it counted; a child does not keep its socket open, and takes the address over."""
    sink.send([usage(1)])
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        for number in (2, 3):
            theirs.send(b"1" if list(sink.send([usage(number)])) == [Delivered()] else b"0")
            theirs.recv(1)
        os._exit(0)
    theirs.close()
    try:
        assert ours.recv(1) == b"1"
        assert shown(port) == {("meter_mw_requests_total", "r", ""): 1}
        sink.close()
        ours.send(b"x")
        assert ours.recv(1) == b"1"
        assert shown(port) == {("meter_mw_requests_total", "r", ""): 2}
    finally:
        ours.close()  # which ends the child, if nothing else does
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_names() -> None:
    """The name is the address."""
    sink = PrometheusSink("[::1]:9464", FIELDS)
    assert (sink.name, repr(sink)) == ("prometheus:[::1]:9464", "PrometheusSink('::1:9464')")
    assert not KIND.for_billing
