"""The laws of a sink, as a test class to inherit.

class TestMySink(SinkConformance):
    @pytest.fixture
    def rig(self):
        yield MyRig(...)
"""
# ruff: noqa: S101  -- these are tests, for whoever writes a sink

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Protocol

from meter_mw.sinks.base import Delivered, Duplicate, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.sinks.base import Sink

_PATIENCE = 30.0


class SinkRig(Protocol):
    """A sink with the destination behind it, which can fail and tells what it got."""

    @property
    def sink(self) -> Sink:
        """The sink under test."""

    @property
    def secrets(self) -> Sequence[str]:
        """What must show nowhere."""

    def received(self) -> list[dict[str, object]]:
        """Return the events that the destination has, in the order of their arrival, each with its `id`."""

    def fail(self) -> None:
        """Have the destination take nothing, as in an outage."""

    def recover(self) -> None:
        """End the outage."""


def event(number: int, text: str = "") -> bytes:
    """Return a CloudEvents object as the journal holds it."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "urn:meter-mw:conformance",
            "type": "meter_mw.request.v1",
            "subject": "acme",
            "time": "2026-11-21T10:43:47.127149Z",
            "datacontenttype": "application/json",
            "data": {"requests": 1, "text": text},
        },
        ensure_ascii=False,
    ).encode()


class SinkConformance:
    """What the forwarder relies on. A subclass gives the fixture `rig`, a `SinkRig`."""

    def expected(self, payload: bytes) -> dict[str, object]:
        """Give what the rig should have received of an event: all of it, unless the sink translates."""
        return dict(json.loads(payload))

    def test_delivers_in_order(self, rig: SinkRig) -> None:
        """Each event arrives once, in order and whole, and is answered for."""
        batch = [event(number) for number in range(20)]
        assert list(rig.sink.send(batch)) == [Delivered()] * 20
        assert rig.received() == [self.expected(payload) for payload in batch]

    def test_takes_its_greatest_batch(self, rig: SinkRig) -> None:
        """A batch of `max_batch` events is taken."""
        assert rig.sink.max_batch >= 1
        batch = [event(number) for number in range(rig.sink.max_batch)]
        assert list(rig.sink.send(batch)) == [Delivered()] * len(batch)
        assert len(rig.received()) == len(batch)

    def test_takes_an_empty_batch(self, rig: SinkRig) -> None:
        """Nothing sent is nothing answered."""
        assert list(rig.sink.send([])) == []
        assert rig.received() == []

    def test_keeps_text_as_it_is(self, rig: SinkRig) -> None:
        """Text beyond ASCII and JSON's escapes arrive as they were, also from JSON of several lines."""
        text = 'é 語 \U0001f4a1 "\\ \u2028 \n \x7f'
        payload, spread = event(1, text), json.dumps(json.loads(event(2, text)), indent=2).encode()
        assert list(rig.sink.send([payload, spread])) == [Delivered()] * 2
        assert rig.received() == [self.expected(payload), self.expected(spread)]

    def test_survives_an_outage(self, rig: SinkRig) -> None:
        """A failure is an outcome and no exception; afterwards the same batch is delivered."""
        rig.sink.send([event(0)])
        rig.fail()
        batch = [event(1), event(2)]
        outcomes = rig.sink.send(batch)
        assert len(outcomes) == 2
        assert all(isinstance(outcome, Retry | Unknown) for outcome in outcomes)
        rig.recover()
        assert all(isinstance(outcome, Delivered | Duplicate) for outcome in rig.sink.send(batch))
        assert {str(got["id"]) for got in rig.received()} == {"event-0", "event-1", "event-2"}

    def test_opens_again_after_close(self, rig: SinkRig) -> None:
        """`close` lets go, twice if need be, and the next `send` works."""
        rig.sink.send([event(1)])
        rig.sink.close()
        rig.sink.close()
        assert list(rig.sink.send([event(2)])) == [Delivered()]
        assert len(rig.received()) == 2

    def test_works_in_a_child(self, rig: SinkRig) -> None:
        """After a fork, parent and child each deliver."""
        rig.sink.send([event(1)])
        child = os.fork()
        if child == 0:
            delivered = list(rig.sink.send([event(2)])) == [Delivered()]
            os._exit(0 if delivered else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(rig.sink.send([event(3)])) == [Delivered()]
        assert [got["id"] for got in rig.received()] == ["event-1", "event-2", "event-3"]

    def test_may_change_its_thread(self, rig: SinkRig) -> None:
        """Two threads may use it one after the other."""
        rig.sink.send([event(1)])
        thread = threading.Thread(target=rig.sink.send, args=([event(2)],))
        thread.start()
        thread.join(_PATIENCE)
        assert [got["id"] for got in rig.received()] == ["event-1", "event-2"]

    def test_has_a_name(self, rig: SinkRig) -> None:
        """The name is there and stays."""
        assert rig.sink.name
        assert rig.sink.name == rig.sink.name

    def test_shows_no_secret(self, rig: SinkRig) -> None:
        """Neither the name, nor `repr`, nor the reason of a failure holds a secret."""
        rig.fail()
        shown = f"{rig.sink.name} {rig.sink!r} {list(rig.sink.send([event(1)]))!r}"
        assert [secret for secret in rig.secrets if secret in shown] == []
