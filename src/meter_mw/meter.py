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
from typing import TYPE_CHECKING, NamedTuple

from meter_mw import core, reporting
from meter_mw.admission import Admission, Answer
from meter_mw.audit.sealer import Sealer, key_of
from meter_mw.audit.seals import SealError
from meter_mw.booking import Books
from meter_mw.driving import Driver
from meter_mw.exchange import Exchange
from meter_mw.gate import Gate
from meter_mw.journal import Forwarder, Journal
from meter_mw.keeping import Keeper
from meter_mw.leasing.lessor import Lessor
from meter_mw.policy.delivery import Forwarding, Reap
from meter_mw.policy.loader import load
from meter_mw.policy.policy import StoreCheck
from meter_mw.policy.problems import PolicyError, Problem
from meter_mw.quota import Slots
from meter_mw.ready import Readies
from meter_mw.recovery.recoverer import Recoverer
from meter_mw.recovery.trail import Trail
from meter_mw.resolving import ResolverDesk
from meter_mw.respond import Responder, problem
from meter_mw.rids import new_rid
from meter_mw.sinks.kinds import Service
from meter_mw.stores.access import Stores
from meter_mw.stores.checking import Examined, findings
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.settler import DirectSettler, Settler
from meter_mw.turning import Turner
from meter_mw.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meter_mw.booking import Booked
    from meter_mw.model import Request
    from meter_mw.policy.policy import Policy
    from meter_mw.reporting import Usage
    from meter_mw.respond import Body, Fields, Refusal
    from meter_mw.sinks import Sink
    from meter_mw.stores.port import AsyncStore, Store
    from meter_mw.talk import Conversation

_log = logging.getLogger(__name__)

_MEMORY_CLOSED_US = 10 * 1_000_000
"""In one process no command is lost or repeated, so what became of a rid need not be remembered long (µs)."""

METER = "meter_mw.meter"
"""Where a scope or an environ carries the meter that is around the app."""

FLUSH_S = 5.0
"""Seconds that a process gives its last events when it ends; the journal keeps the rest for its successor."""


class Pending(NamedTuple):
    """A request of `now_us` that somebody has to be asked about.

    `is_known` says that nobody need ask who makes it.
    """

    request: Request
    now_us: int
    talk: Conversation[Admission]
    is_known: bool


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
        self._store, self._async_store = open_stores(self.policy.store)
        self._now_us = self._store.now_us
        if self.policy.store_check is StoreCheck.REFUSE:
            refuse_unsafe(self._store)
        events = self.policy.events
        sealing = open_sealer(self.policy)
        self._journal = Journal(
            events.journal, self.policy.source, max_bytes=events.max_bytes, sealing=sealing
        )
        outlives = self._async_store is not None
        bills = events.reap is Reap.BILL
        self._trail = Trail(self._journal, self._store.now_us, keeps=outlives, bills=bills)
        self._settler = _settler(self._store, self._trail) if outlives else DirectSettler(self._store)
        stores = Stores(self._store, self._async_store, self._settler)
        self._recoverer = Recoverer(self.policy, stores, self._journal, self._trail)
        self._trail.made = self._recoverer.start
        resolver = ResolverDesk(self.policy, self._store, self._async_store)
        self._driver = Driver(self.policy, stores, resolver, self._trail, back=self._recoverer.wake)
        self._lessor = Lessor(self.policy, stores, self._trail)
        self._readies = Readies(self.policy, self._lessor.pool)
        self._turnstile = Turnstile(self.policy, self._readies)
        self._tells_of_clients = bool(events.privacy)
        retention = events.retention_us / 1_000_000
        sinks = open_sinks(self.policy) if events.forwarder is Forwarding.THREAD else []
        self._forwarder = Forwarder(self._journal, sinks, retention=retention)
        self._books = Books(self.policy, stores, self._journal, self._forwarder, self._trail)
        self.gate = Gate(self.policy, self._driver, self._store)
        self._turner = Turner(self.policy, self._store, self._driver, self._books, self.gate)
        self._keeper = Keeper(
            self.policy.checkpoint_us, self._turner.turn, self._books.glance if bills else None
        )
        self._parts = _Parts(
            self._lessor, self._settler, self._recoverer, self._forwarder, self._journal, self._store
        )
        # Runs when this meter is collected, and at the latest when the interpreter exits.
        self._closing = weakref.finalize(self, _close, self._parts, timeout=FLUSH_S)
        _exit_on_sigterm()

    def start(self) -> None:
        """Begin to forward; whatever an earlier process left behind is taken up too."""
        self._forwarder.start()
        self._recoverer.start()

    def begin(self, request: Request) -> Admission | Pending:
        """Decide a request where nobody need be asked; else give what is to be held to decide it."""
        now_us = self._now_us()
        if self._books.takes_requests and not self._recoverer.learning:
            decided = self._turnstile.admit(request, now_us)
            if isinstance(decided, Admission):
                return self._with_evidence(request, decided) if self._tells_of_clients else decided
            if decided is not None:
                return Pending(request, now_us, decided, is_known=True)
        talk = core.admit(
            self.policy,
            request,
            new_rid(now_us),
            now_us,
            readies=self._readies,
            records=self._books.takes_requests,
            learning=self._recoverer.learning,
        )
        return Pending(request, now_us, talk, is_known=False)

    def admit(self, request: Request) -> Admission:
        """Decide a request, waiting for the store at most as long as the policy says."""
        begun = self.begin(request)
        if isinstance(begun, Admission):
            return begun
        return self._concluded(begun, self._driver.drive(begun.talk))

    async def aadmit(self, request: Request) -> Admission:
        """Decide a request without holding up the event loop."""
        begun = self.begin(request)
        return begun if isinstance(begun, Admission) else await self.await_admission(begun)

    async def await_admission(self, begun: Pending) -> Admission:
        """Decide what was begun without holding up the event loop."""
        return self._concluded(begun, await self._driver.adrive(begun.talk))

    def _concluded(self, begun: Pending, admission: Admission) -> Admission:
        """Take back what an admission without an answer may have been charged; tell what it reached."""
        request = begun.request
        if not begun.is_known:
            self._turnstile.meet(request, admission, begun.now_us)
        if admission.answer is Answer.UNAVAILABLE and admission.charges:
            self._books.cancel(admission)
        if admission.reached:
            self._books.tell(admission)
        return self._with_evidence(request, admission) if self._tells_of_clients else admission

    def _with_evidence(self, request: Request, admission: Admission) -> Admission:
        """Add what the policy has recorded of a client beyond the default fields."""
        if admission.caller is None or not admission.serves:
            return admission
        rules, proxies = self.policy.events.privacy, self.policy.identity.trusted_proxies
        return admission._replace(evidence=rules.of(request, proxies))

    def usage(self, request: Request) -> Usage | Admission:
        """Tell the caller of a request how it stands with its limits; consumes nothing.

        Where nobody can be told the answer is an admission to `refuse`.
        """
        now_us = self._now_us()
        return self._driver.drive(reporting.usage(self.policy, request, new_rid(now_us), now_us))

    async def ausage(self, request: Request) -> Usage | Admission:
        """Tell a caller how it stands without holding up the event loop; see `usage`."""
        now_us = self._now_us()
        return await self._driver.adrive(reporting.usage(self.policy, request, new_rid(now_us), now_us))

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
        exchange = Exchange(self.policy, admission, method, _monotonic_us(), self._amend)
        if admission.caller is not None:
            self._books.hand_over(admission, method)
            self._keeper.add(exchange)
        return exchange

    def conclude(self, exchange: Exchange) -> None:
        """Close the count before the last byte leaves: the event is written, and slots are free.

        Raises `NotDurable` where the policy is strict and the disk fails: that byte is not to leave then.
        """
        booked = self.finish(exchange)
        if booked is not None:
            self.release(exchange, booked)

    async def aconclude(self, exchange: Exchange) -> None:
        """Close the count without holding up the event loop; see `conclude`."""
        booked = self.finish(exchange)
        if booked is not None:
            await self.arelease(exchange, booked)

    def abandon(self, exchange: Exchange) -> None:
        """Close the count where nobody waits any more."""
        booked = self.finish(exchange)
        if booked is not None and booked.settlement is not None:
            self._books.settle(exchange.admission, booked.settlement)

    def finish(self, exchange: Exchange) -> Booked | None:
        """Close the count, once: the event goes to the journal, the truth to the store.

        What is left to do before the last byte leaves is given, to be released: where slots are given back,
        which the client's next request may want, and where the event has to be on the disk.
        """
        receipt = exchange.end(_monotonic_us())
        if receipt is None:
            return None
        admission = exchange.admission
        self._keeper.discard(exchange)
        if admission.caller is None:
            return None
        booked = self._books.close(admission, exchange.method, receipt)
        if booked.settlement and not any(isinstance(each.quota, Slots) for each in admission.charges):
            self._books.settle(admission, booked.settlement)
            booked = booked._replace(settlement=None)
        return booked if booked.settlement or self._books.is_strict else None

    def release(self, exchange: Exchange, booked: Booked) -> None:
        """Do what is left to do before anything else happens; see `conclude`."""
        self._books.deliver(exchange.admission, booked)

    async def arelease(self, exchange: Exchange, booked: Booked) -> None:
        """Do what is left to do without holding up the event loop; see `conclude`."""
        await self._books.adeliver(exchange.admission, booked)

    def _amend(self, exchange: Exchange, meter: str, units: int) -> None:
        self._books.amend(exchange.admission, {meter: units})

    def flush(self, timeout: float = FLUSH_S) -> bool:
        """Have all that waits settled and delivered, within `timeout` seconds; say whether it is."""
        until = time.monotonic() + timeout
        settled = self._lessor.flush(timeout) and self._settler.flush(max(0.0, until - time.monotonic()))
        return self._forwarder.flush(max(0.0, until - time.monotonic())) and settled

    async def aflush(self, timeout: float = FLUSH_S) -> bool:  # noqa: ASYNC109 - it bounds a thread
        """Flush without holding up the event loop, and let go of this loop's connections."""
        done = await asyncio.to_thread(self.flush, timeout)
        if self._async_store is not None:
            await self._async_store.aclose()
        return done

    def close(self, timeout: float = FLUSH_S) -> None:
        """Flush, then stop the threads and close the files, within `timeout` seconds altogether."""
        self._keeper.close()
        if self._closing.detach():
            _close(self._parts, timeout=timeout)


def _settler(store: Store, trail: Trail) -> Settler:
    return Settler(store, record=trail, put_aside=trail.put_aside)


class _Parts(NamedTuple):
    """What is closed with a meter, in this order."""

    lessor: Lessor
    settler: Settler | DirectSettler
    recoverer: Recoverer
    forwarder: Forwarder
    journal: Journal
    store: Store


def _close(parts: _Parts, *, timeout: float) -> None:
    until = time.monotonic() + timeout
    for part in (parts.lessor, parts.settler, parts.recoverer, parts.forwarder):
        part.close(max(0.0, until - time.monotonic()))
    parts.journal.close()
    parts.store.close()


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

    Twins share their guess at the store's time: who asks seldom knows what the other has learned. Nothing is
    connected yet. Raises PolicyError for a URL that no connection understands.
    """
    if url.startswith("memory:"):
        return MemoryStore(closed_us=_MEMORY_CLOSED_US), None
    from meter_mw.stores.aredis_store import open_async_store  # noqa: PLC0415 - memory needs no client
    from meter_mw.stores.redis_link import StoreClock  # noqa: PLC0415
    from meter_mw.stores.redis_store import open_store  # noqa: PLC0415

    guess = StoreClock()
    try:
        return open_store(url, guess=guess), open_async_store(url, guess=guess)
    except ValueError as mistake:
        raise PolicyError([Problem(str(mistake), path="store")]) from None


def open_sealer(policy: Policy) -> Sealer | None:
    """Give who seals the journal of a policy; None where it has no seal. Raises PolicyError."""
    events = policy.events
    if events.seal is None:
        return None
    try:
        return Sealer(events.journal, policy.source, key_of(events.seal))
    except ImportError:
        fault = "a private key needs cryptography: pip install 'meter-mw[audit]'"
    except SealError as error:
        fault = str(error)
    raise PolicyError([Problem(fault, path="events.seal")])


def refuse_unsafe(store: Store) -> None:
    """Raise PolicyError for a store whose settings lose counts, or that cannot be asked in time."""
    if isinstance(store, Examined):
        problems = [Problem(each, path="store") for each in findings(store)]
        store.close()
        if problems:
            raise PolicyError(problems)


def open_sinks(policy: Policy) -> list[Sink]:
    """Open the sinks of a policy. Nothing is connected yet.

    Raises PolicyError for settings that contradict each other, and for two sinks that are one.
    """
    service = Service(policy.source, policy.quantities, policy.events.journal)
    sinks: list[Sink] = []
    places: dict[str, str] = {}
    problems = []
    for index, rule in enumerate(policy.events.sinks):
        place = f"events.sinks[{index}]"
        try:
            sinks.append(rule.kind.open(rule.settings, service))
        except ValueError as mistake:
            problems.append(Problem(str(mistake), path=place))
            continue
        other = places.setdefault(sinks[-1].name, place)
        if other != place:
            said = f"events go there already, by {other}; each would arrive twice"
            problems.append(Problem(said, path=place))
    if problems:
        raise PolicyError(problems)
    return sinks
