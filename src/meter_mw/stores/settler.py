"""Closings on their way to the store: they wait here, and leave in batches, in the background.

Rule 1: the request path is never held up; a store that is away is retried for as long as the process runs.
Rule 2: every closing may be sent again while the store remembers its rid; `kept.due` says when it may not.
Rule 3: what the store cannot digest is put aside and said; nothing else is held up by it.
Rule 4: a forked child settles its own requests and leaves its parent's to the parent.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from meter_mw import forks
from meter_mw.stores.kept import Kept, due, is_kept
from meter_mw.stores.outage import Outage
from meter_mw.stores.port import NotAsked, Refusal, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meter_mw.model import RequestId
    from meter_mw.stores.port import Closed, Closing, Store

    Booked: TypeAlias = Callable[[Closed], None]
    """Is called with what became of a closing, in the settler's thread."""

_log = logging.getLogger(__name__)

BATCH = 100
"""Closings that go out in one round trip at most."""

MOST_WAITING = 200_000
"""Beyond this many none is held in memory: the rest is sent from the journal, or the oldest is let go."""

MOST_REFUSALS = 3
"""How often a closing is sent that the store cannot digest."""

IN_DOUBT = "whether the store has it can no longer be known"

_LINGER = 0.005
_LONGEST_PAUSE = 1.0


class Record(Protocol):
    """Where closings are kept beside the settler's memory, and how far they are settled."""

    @property
    def gap(self) -> object | None:
        """From where on closings are sent from the record; None where memory has them all."""

    def leaves_out(self, rid: RequestId) -> bool:
        """Be told that memory has no room for a closing; return whether the record will have it sent."""

    def sending(self, rids: Sequence[RequestId]) -> object:
        """Be told, before they are sent, that the store may soon have these closings."""

    def unsent(self, noted: object) -> None:
        """Be told that nothing reached the store of what `sending` returned this for."""

    def confirmed(self, rids: Iterable[RequestId]) -> None:
        """Be told that the store has these closings, or never will."""


class NoRecord:
    """Keeps nothing: what is not in memory is lost."""

    gap = None

    def leaves_out(self, rid: RequestId) -> bool:  # noqa: ARG002 - nothing is kept
        """Say that nobody else has it."""
        return False

    def sending(self, rids: Sequence[RequestId]) -> None:
        """Note nothing."""

    def unsent(self, noted: object) -> None:
        """Note nothing."""

    def confirmed(self, rids: Iterable[RequestId]) -> None:
        """Note nothing."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A closing that waits; since when the store may have it, and how often that could not digest it."""

    kept: Kept
    booked: Booked | None
    tried_us: int | None = None
    refusals: int = 0


class Settler:
    """Sends closings to a blocking store from a thread of its own."""

    def __init__(
        self,
        store: Store,
        *,
        most_waiting: int = MOST_WAITING,
        record: Record | None = None,
        put_aside: Callable[[Kept, str], None] | None = None,
    ) -> None:
        self._store = store
        self._most_waiting = most_waiting
        self._record: Record = record or NoRecord()
        self._aside = put_aside
        self._jitter = random.Random()  # noqa: S311 - our own: an app may have seeded the shared one
        self.forget()
        forks.register(self)

    def forget(self) -> None:
        """Begin with nothing, as a forked child does."""
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._sending = 0
        self._batch = BATCH
        self._failing = False
        self._outage = Outage("closings wait for it")
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._stopping = False
        self.dropped = 0

    def put(
        self,
        closing: Closing,
        booked: Booked | None = None,
        admitted_us: int = 0,
        tried_us: int | None = None,
    ) -> None:
        """Have it sent soon; never blocks. What became of it is told to `booked`.

        `admitted_us`: see `Kept`. The store may have it already since `tried_us`, where that is given.
        """
        is_full = len(self._waiting) >= self._most_waiting
        if is_full or (self._record.gap is not None and booked is None):
            if is_kept(closing) and self._record.leaves_out(closing.rid):
                return
            if is_full:
                self._drop()
        self._waiting.append(_Waiting(Kept(closing, 0, admitted_us), booked, tried_us))
        if self._thread is None:
            self._start()
        if not self._wake.is_set():
            self._wake.set()

    def _drop(self) -> None:
        try:
            self._waiting.popleft()
        except IndexError:
            return
        self.dropped += 1
        if self.dropped == 1:
            _log.error("the store was away for too long: closings are dropped, and its counts will be off")

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is not None or self._stopping:
                return
            thread = threading.Thread(target=self._run, name="meter-mw-settler", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:
                _log.warning("closings wait for a thread to send them: %s", failure)
            else:
                self._thread = thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait()
            if not self._waiting:
                self._wake.clear()
                if not self._waiting:
                    if self._stopping:
                        return
                    continue
            if len(self._waiting) < BATCH and not self._stopping:
                time.sleep(_LINGER)
            if self._send():
                pause = 0.0
            else:
                pause = min(_LONGEST_PAUSE, max(0.05, pause * 2))
                time.sleep(self._jitter.uniform(0, pause))

    def _send(self) -> bool:
        self._sending = min(self._batch, len(self._waiting))
        batch = self._taken(self._sending)
        try:
            return self._sent(batch)
        except Exception as fault:  # noqa: BLE001 - a fault of the store must not end the thread
            _log.exception("the store could not settle %d closings", len(batch))
            self._undigested(batch, repr(fault))
            return True
        finally:
            self._sending = 0
            with self._idle:
                self._idle.notify_all()

    def _sent(self, batch: list[_Waiting]) -> bool:
        now_us = self._store.now_us()
        ready = [(each, due(each.kept, now_us, tried_us=each.tried_us)) for each in batch]
        for each, closing in ready:
            if closing is None:
                self._put_aside(each, IN_DOUBT)
        batch[:] = [each for each, closing in ready if closing is not None]
        closings = [closing for _, closing in ready if closing is not None]
        rids = [each.rid for each in closings]
        noted, is_sent = None, False
        try:
            if self._failing and closings:
                self._store.peek(closings[0].tag, ())  # so that what is not there leaves nothing in doubt
            noted, is_sent = self._record.sending(rids), True
            answers = self._store.settle(closings)
        except Refusal as refusal:
            self._outage.goes_on(refusal)
            self._failing = True
            self._undigested(batch, str(refusal), poison=cannot_digest(refusal))
            return False
        except StoreUnavailable as outage:
            self._outage.goes_on(outage)
            self._failing = True
            if is_sent and isinstance(outage, NotAsked):
                self._record.unsent(noted)
            elif is_sent:
                for each in batch:
                    each.tried_us = each.tried_us or now_us
            self._again(batch)
            return False
        self._record.confirmed(rids)
        _tell([each.booked for each in batch], answers)
        self._failing = False
        self._outage.is_over()
        self._batch = min(BATCH, self._batch * 2)
        return True

    def _again(self, batch: list[_Waiting]) -> None:
        """Have it sent later: behind the others, and one by one, so that a single one holds up no other."""
        self._waiting.extend(batch)
        self._batch = 1

    def _undigested(self, batch: list[_Waiting], reason: str, *, poison: bool = True) -> None:
        """Find out which one it is that the store cannot digest, and put that aside."""
        if len(batch) == 1 and poison:
            batch[0].refusals += 1
            if batch[0].refusals >= MOST_REFUSALS:
                self._put_aside(batch.pop(), reason)
        self._again(batch)

    def _put_aside(self, waiting: _Waiting, reason: str) -> None:
        self.dropped += 1
        closing = waiting.kept.closing
        _log.error("the closing of %s is put aside, its counts will be off: %s", closing.rid, reason)
        self._record.confirmed((closing.rid,))
        if self._aside is not None:
            self._aside(waiting.kept, reason)

    def _taken(self, count: int) -> list[_Waiting]:
        """Take the oldest that wait; a full queue may let go of some of them meanwhile."""
        batch: list[_Waiting] = []
        with contextlib.suppress(IndexError):
            while len(batch) < count:
                batch.append(self._waiting.popleft())
        return batch

    @property
    def waiting(self) -> int:
        """How many closings the store has not confirmed yet."""
        return len(self._waiting) + self._sending

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put is in the store, at most `timeout` seconds; say whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: self.waiting == 0, timeout)

    def close(self, timeout: float) -> bool:
        """Flush, then stop."""
        done = self.flush(timeout)
        self._stopping = True
        self._wake.set()
        return done


def cannot_digest(refusal: Refusal) -> bool:
    """Whether it is this closing that a store refuses, for good, and not all of them for a while."""
    return "mw: " in str(refusal) or "WRONGTYPE" in str(refusal)


def _tell(booked: Sequence[Booked | None], answers: Sequence[Closed]) -> None:
    for tell, answer in zip(booked, answers, strict=True):
        if tell is not None:
            try:
                tell(answer)
            except Exception:  # noqa: BLE001 - what hears of it must not hold up the rest
                _log.exception("what settling told could not be recorded")


class DirectSettler:
    """Settles at once, for a store that never makes its caller wait."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(
        self,
        closing: Closing,
        booked: Booked | None = None,
        admitted_us: int = 0,  # noqa: ARG002 - it is never late
        tried_us: int | None = None,  # noqa: ARG002
    ) -> None:
        """Settle it, and tell what became of it."""
        _tell((booked,), self._store.settle((closing,)))

    waiting = 0
    """How many closings the store has not confirmed yet."""

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - nothing ever waits
        """Say that nothing waits."""
        return True

    def close(self, timeout: float) -> bool:  # noqa: ARG002 - nothing ever waits
        """Say that nothing waits."""
        return True
