"""One process's meter: the policy with its store, journal and forwarder, put together for the edges."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, TypeVar

from meter_mw import core
from meter_mw.core import Answer, KeyEnded, Resolve, ResolverUnavailable
from meter_mw.events import encode
from meter_mw.exchange import Exchange
from meter_mw.journal import Forwarder, Journal, JournalError
from meter_mw.policy.loader import load
from meter_mw.policy.policy import FileSinkRule, HttpSinkRule
from meter_mw.policy.problems import PolicyError, Problem
from meter_mw.resolving import ResolverDesk
from meter_mw.respond import Responder, problem
from meter_mw.rids import new_rid
from meter_mw.sinks import FileSink, HttpSink, StdoutSink
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.outage import Outage
from meter_mw.stores.port import Cancel, StoreUnavailable, Tally
from meter_mw.stores.settler import DirectSettler, Settler

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meter_mw.core import Admission, Conversation
    from meter_mw.model import Request
    from meter_mw.policy.policy import KeyEntry, Policy, SinkRule
    from meter_mw.respond import Body, Fields, Refusal
    from meter_mw.sinks import Sink
    from meter_mw.stores.port import Admit, AsyncStore, Store

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_MEMORY_CLOSED_US = 10 * 1_000_000
"""In one process no command is lost or repeated, so what became of a rid need not be remembered long (µs)."""

FLUSH_S = 5.0
"""Seconds that a process gives its last events when it ends; the journal keeps the rest for its successor."""


class Meter:
    """What an edge needs: `admit` a request, `finish` its exchange, and say a refusal."""

    def __init__(
        self,
        policy: str | Path | Mapping[str, object] | Policy | None = None,
        *,
        refusal: Body | None = None,
    ) -> None:
        self.policy = load((os.environ.get("METER_POLICY") or "meter.yaml") if policy is None else policy)
        self.responder = Responder(self.policy)
        self._body = refusal or problem
        self._patience_us = self.policy.deadline_us
        self._outage = Outage("requests are decided as the policy says for a store that is away")
        self._store, self._async_store = open_stores(self.policy.store)
        self._resolver = ResolverDesk(self.policy, self._store, self._async_store)
        self._settler = DirectSettler(self._store) if self._async_store is None else Settler(self._store)
        self._journal = Journal(self.policy.events.journal, self.policy.source)
        self._forwarder = Forwarder(self._journal, [_sink(rule) for rule in self.policy.events.sinks])
        self._looked_around = False
        parts = (self._settler, self._forwarder, self._journal, self._store)
        # Runs when this meter is collected, and at the latest when the interpreter exits.
        self._closing = weakref.finalize(self, _close, *parts, FLUSH_S)
        _exit_on_sigterm()

    def start(self) -> None:
        """Begin to forward; whatever an earlier process left behind is taken up too."""
        self._forwarder.start()

    def admit(self, request: Request) -> Admission:
        """Decide a request, waiting for the store at most as long as the policy says."""
        now_us = self._store.now_us()
        talk = core.admit(self.policy, request, new_rid(now_us), now_us)
        return self._concluded(self._drive(talk))

    async def aadmit(self, request: Request) -> Admission:
        """Decide a request without holding up the event loop."""
        store = self._async_store
        now_us = self._store.now_us() if store is None else store.now_us()
        talk = core.admit(self.policy, request, new_rid(now_us), now_us)
        return self._concluded(await self._adrive(talk, store))

    def _drive(self, talk: Conversation[_T]) -> _T:
        """Hold the conversation with partners that block."""
        until_us = _monotonic_us() + self._patience_us
        try:
            command = next(talk)
            while True:
                try:
                    reply = self._reply(command, until_us)
                except (StoreUnavailable, ResolverUnavailable, KeyEnded) as outage:
                    command = talk.throw(outage)
                else:
                    if isinstance(command, Resolve):
                        until_us = _monotonic_us() + self._patience_us  # the patience is the store's alone
                    command = talk.send(reply)
        except StopIteration as end:
            result: _T = end.value
            return result

    async def _adrive(self, talk: Conversation[_T], store: AsyncStore | None) -> _T:
        """Hold the conversation with partners that are awaited; nothing else differs."""
        until_us = _monotonic_us() + self._patience_us
        try:
            command = next(talk)
            while True:
                try:
                    reply = await self._areply(command, until_us, store)
                except (StoreUnavailable, ResolverUnavailable, KeyEnded) as outage:
                    command = talk.throw(outage)
                else:
                    if isinstance(command, Resolve):
                        until_us = _monotonic_us() + self._patience_us  # the patience is the store's alone
                    command = talk.send(reply)
        except StopIteration as end:
            result: _T = end.value
            return result

    def _reply(self, command: Admit | Resolve, until_us: int) -> Tally | KeyEntry | None:
        if isinstance(command, Resolve):
            return self._resolver.ask(command)
        try:
            tally = self._store.admit(command, patience_us=until_us - _monotonic_us())
        except StoreUnavailable as failure:
            self._outage.goes_on(failure)
            raise
        except BaseException:
            self._settler.put(Cancel(command.rid, command.tag))
            raise
        self._outage.is_over()
        return tally

    async def _areply(
        self, command: Admit | Resolve, until_us: int, store: AsyncStore | None
    ) -> Tally | KeyEntry | None:
        if isinstance(command, Resolve):
            return await self._resolver.aask(command)
        if store is None:
            return self._reply(command, until_us)
        try:
            tally = await store.admit(command, patience_us=until_us - _monotonic_us())
        except StoreUnavailable as failure:
            self._outage.goes_on(failure)
            raise
        except BaseException:
            self._settler.put(Cancel(command.rid, command.tag))
            raise
        self._outage.is_over()
        return tally

    def _concluded(self, admission: Admission) -> Admission:
        """Take back what an admission without an answer may have been charged."""
        if admission.answer is Answer.UNAVAILABLE and admission.charges and admission.caller:
            self._settler.put(Cancel(admission.rid, admission.caller.tag))
        return admission

    def refuse(self, admission: Admission) -> tuple[Refusal, Fields, bytes]:
        """Give the status, the fields and the body that tell a client why it is not served."""
        refusal, fields = self.responder.refusal(admission)
        try:
            media_type, body = _checked(self._body(refusal))
        except Exception:  # noqa: BLE001 - the app's code may raise anything
            _log.exception("the app's own refusal body failed; the standard one is sent")
            media_type, body = problem(refusal)
        return refusal, (("Content-Type", media_type), ("Content-Length", str(len(body))), *fields), body

    def exchange(self, admission: Admission, method: str) -> Exchange:
        """Open the count of an admitted request."""
        return Exchange(self.policy, admission, method, _monotonic_us(), self._amend)

    def finish(self, exchange: Exchange) -> None:
        """Close the count, once: the event goes to the journal, the truth to the store."""
        receipt = exchange.end(_monotonic_us())
        admission = exchange.admission
        if receipt is None or admission.caller is None:
            return
        self._record(encode(core.usage_event(self.policy, admission, exchange.method, receipt)))
        settlement = core.settlement(admission, receipt)
        if settlement is not None:
            self._settler.put(settlement)

    def _amend(self, exchange: Exchange, meter: str, units: int) -> None:
        now_us = self._store.now_us()
        event, settlement = core.amendment(
            self.policy, exchange.admission, new_rid(now_us), now_us, {meter: units}
        )
        self._record(encode(event))
        if settlement is not None:
            self._settler.put(settlement)

    def _record(self, event: bytes) -> None:
        try:
            self._journal.append(event)
        except JournalError as failure:
            _log.error(
                "a usage event could not be journaled, and is only here: %s: %s", failure, event.decode()
            )
        self._forwarder.start()
        if self._async_store is None and not self._looked_around:
            self._look_around()

    def _look_around(self) -> None:
        """Say so when other processes count in memories of their own, as each then allows the whole limit."""
        self._looked_around = True
        if self._journal.neighbours():
            _log.warning(
                "%s is metered by several processes, each with memory:// and so with all of each limit; "
                "have them share one store, redis://host:6379/0 for example",
                self.policy.service,
            )

    def flush(self, timeout: float = FLUSH_S) -> bool:
        """Have all that waits settled and delivered, within `timeout` seconds; say whether it is."""
        until = time.monotonic() + timeout
        settled = self._settler.flush(timeout)
        return self._forwarder.flush(max(0.0, until - time.monotonic())) and settled

    async def aflush(self, timeout: float = FLUSH_S) -> bool:  # noqa: ASYNC109 - it bounds a thread
        """Flush without holding up the event loop, and let go of this loop's connections."""
        done = await asyncio.to_thread(self.flush, timeout)
        if self._async_store is not None:
            await self._async_store.aclose()
        return done

    def close(self, timeout: float = FLUSH_S) -> None:
        """Flush, then stop the threads and close the files, within `timeout` seconds altogether."""
        if self._closing.detach():
            _close(self._settler, self._forwarder, self._journal, self._store, timeout)


def _close(
    settler: Settler | DirectSettler, forwarder: Forwarder, journal: Journal, store: Store, timeout: float
) -> None:
    until = time.monotonic() + timeout
    settler.close(timeout)
    forwarder.close(max(0.0, until - time.monotonic()))
    journal.close()
    store.close()


def _exit_on_sigterm() -> None:
    """Have SIGTERM end the process by an exit, which flushes, where nothing else handles it (waitress)."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _checked(answer: object) -> tuple[str, bytes]:
    """Check what an app's own refusal body gave."""
    match answer:
        case (str() as media_type, bytes() as body) if media_type.isprintable():
            return media_type, body
    raise TypeError("a refusal body is a media type and bytes")


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1_000


def open_stores(url: str) -> tuple[Store, AsyncStore | None]:
    """Open the store of a policy; memory never makes anyone wait, and so has no asynchronous twin.

    Nothing is connected yet. Raises PolicyError for a URL that no connection understands.
    """
    if url.startswith("memory:"):
        return MemoryStore(closed_us=_MEMORY_CLOSED_US), None
    from meter_mw.stores.aredis_store import open_async_store  # noqa: PLC0415 - memory needs no client
    from meter_mw.stores.redis_store import open_store  # noqa: PLC0415

    try:
        return open_store(url), open_async_store(url)
    except ValueError as mistake:
        raise PolicyError([Problem(str(mistake), path="store")]) from None


def _sink(rule: SinkRule) -> Sink:
    if isinstance(rule, FileSinkRule):
        return FileSink(rule.path)
    if isinstance(rule, HttpSinkRule):
        return HttpSink(rule.url, secret=rule.secret)
    return StdoutSink()
