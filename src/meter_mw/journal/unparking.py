"""Sending parked events again, by hand and beside a running forwarder.

Rule 1: one at a time does this in a journal; a forwarder may park meanwhile.
Rule 2: that an event is being sent is noted before it is, and what came of it after. Stopped in between,
        it is in doubt from then on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from meter_mw.journal.horizons import has_passed
from meter_mw.journal.parked import Change, State, note
from meter_mw.sinks.aggregate import Aggregate
from meter_mw.sinks.base import Delivered, Duplicate, Permanent, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from meter_mw.journal.parked import Parked
    from meter_mw.sinks.base import Outcome, Sink


class Busy(Exception):
    """Somebody else is at the parked events."""


@contextlib.contextmanager
def sole(directory: Path) -> Iterator[None]:
    """Be the only one who changes what became of parked events; raises `Busy` or `OSError`."""
    fd = os.open(directory / "parked.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy from None
        yield
    finally:
        os.close(fd)


def is_in_doubt(event: Parked, sink: Sink, now: float) -> bool:
    """Whether the destination may have the event and not know its id any more."""
    horizon = sink.horizon_of(event.payload) if isinstance(sink, Aggregate) else sink.horizon
    return event.sent is not None and has_passed(horizon, event.sent, now)


def resend(
    directory: Path,
    sink: Sink,
    events: Sequence[Parked],
    *,
    by: str,
    now: Callable[[], float] = time.time,
) -> list[Outcome]:
    """Send parked events to their sink, once, and note what came of it; raises `OSError`.

    What the sink did not take stays parked, with what it says now.
    """
    found: list[Outcome] = []
    for start in range(0, len(events), sink.max_batch):
        batch = events[start : start + sink.max_batch]
        note(directory, batch, Change(State.SENDING, now(), "", by))
        outcomes = sink.send([event.payload for event in batch])
        for event, outcome in zip(batch, outcomes, strict=True):
            _tell(directory, event, outcome, by, now())
        found += outcomes
    return found


def _tell(directory: Path, event: Parked, outcome: Outcome, by: str, at: float) -> None:
    match outcome:
        case Delivered():
            note(directory, [event], Change(State.RETRIED, at, "delivered", by))
        case Duplicate():
            note(directory, [event], Change(State.RETRIED, at, "it was there already", by))
        case Permanent(reason) | Retry(reason=reason):
            note(directory, [event], Change(State.PARKED, at, reason, by), sent=event.sent)
        case Unknown(reason):
            sent = at if event.sent is None else event.sent
            note(directory, [event], Change(State.PARKED, at, reason, by), sent=sent)
