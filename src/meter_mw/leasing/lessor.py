"""The lessor of one process: a thread that has slices granted, and settles what was used of them.

Rule 1: a grant is an ordinary admission, and its end an ordinary settlement: nobody else has to know.
Rule 2: a lease is in the register from before the store is asked until its settlement is in the journal, so
that a successor can settle it with what was used.
Rule 3: no request waits for this: what is not lent yet, or no more, is asked of the store.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakValueDictionary

from meter_mw import forks
from meter_mw.journal import JournalError
from meter_mw.leasing.pool import Grant, Pool, settled
from meter_mw.leasing.sizes import is_lendable, lent, told
from meter_mw.policy.delivery import Reap
from meter_mw.policy.terms import Speed
from meter_mw.quota import Cap
from meter_mw.rids import new_rid
from meter_mw.stores.kept import pack
from meter_mw.stores.port import Admit, Booking, Cancel, NotAsked, Settle, Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.leasing.pool import Lease
    from meter_mw.model import RequestId
    from meter_mw.policy.policy import Policy
    from meter_mw.stores.access import Stores
    from meter_mw.stores.port import Charge, Closing, StoreUnavailable

_log = logging.getLogger(__name__)

MOST_POOLS = 16_384
"""Pools that are kept ready; beyond them, those that were asked for the longest time ago begin anew."""

LINGER_S = 300.0
"""A lease whose requests take longer than this (s) is settled as if all of them were used."""

FENCE = 2
"""Patiences until the store refuses a slice as late."""

_PATIENCE_US = 250_000
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.01, 1.0


class Register(Protocol):
    """Where a successor of this process finds its leases.

    `leaving` is called before what is entered is left to others, though this process lives.
    """

    leaving: Callable[[], None] | None

    def lend(self, rid: RequestId, packed: bytes) -> memoryview | None:
        """Enter a lease, with what one of its requests comes to; give where its counts go."""

    def leave(self, rid: RequestId) -> None:
        """Cross a lease out."""

    def packed(self, closing: Closing | None, admitted_us: int) -> bytes:
        """Give a closing as it is kept in the journal; nothing where it is not."""

    def keep(self, rid: RequestId, event: bytes, packed: bytes) -> object:
        """Put a closing into the journal; raises `JournalError`."""


class _Asked(NamedTuple):
    """A slice that is asked for: so many `requests`, each of which costs `one`; see `Grant`."""

    admit: Admit
    one: tuple[Charge, ...]
    requests: int
    counts: memoryview | None


@dataclass(slots=True, order=True)
class _Out:
    """A lease that is out: when to look at it by our own clock (s), and since when it is over."""

    due: float
    pool: Pool = field(compare=False)
    lease: Lease = field(compare=False)
    over: float | None = field(default=None, compare=False)


class Lessor:
    """Grants leases in the background, and settles them; `trail` is where a successor finds them."""

    def __init__(self, policy: Policy, stores: Stores, trail: Register) -> None:
        self._stores = stores
        self._trail = trail
        self._patience_us = max(policy.deadline_us, _PATIENCE_US)
        self._outlives = stores.awaited is not None
        self._lends = policy.events.reap is not Reap.BILL
        self._pools: WeakValueDictionary[tuple[object, ...], Pool] = WeakValueDictionary()
        self._out: list[_Out] = []
        self.forget()
        trail.leaving = self.recall
        forks.register(self)

    def forget(self) -> None:
        """Begin with nothing, as a forked child does: what is lent is its parent's."""
        for each in self._out:
            each.lease.forget()
        for pool in list(self._pools.values()):
            pool.forget()
        self._recent: OrderedDict[tuple[object, ...], Pool] = OrderedDict()
        self._lock = threading.Lock()
        self._out = []
        self._wanting: deque[Pool] = deque()
        self._wake = threading.Event()
        self._turned = threading.Condition()
        self._recalls = self._recalled = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def pool(self, tag: str, charges: tuple[Charge, ...], speed: Speed) -> Pool | None:
        """Give the pool for charges that requests bring to one holder; None where they are never leased.

        It is the same one for the same holder, quotas and units; `charges` have windows that are valid now.
        """
        if not (self._lends and charges and all(map(is_lendable, charges))) or speed is Speed.STRICT:
            return None
        if speed is Speed.AUTO and not self._outlives:
            return None  # a store that makes nobody wait is as fast
        holder = charges[0].holder or tag
        home = holder.partition(":")[0]
        kinds = tuple((each.id, each.quota, each.take) for each in charges)
        key = (holder, speed, kinds)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                own = charges if holder != home else tuple(replace(each, holder="") for each in charges)
                pool = self._pools[key] = Pool(home, own, speed, self._wanted)
            elif any(a.windows != b.windows for a, b in zip(pool.charges, charges, strict=True)):
                pool.charges = tuple(
                    replace(a, windows=b.windows) for a, b in zip(pool.charges, charges, strict=True)
                )
            self._recent[key] = pool
            self._recent.move_to_end(key)
            if len(self._recent) > MOST_POOLS:
                self._recent.popitem(last=False)
        return pool

    def _wanted(self, pool: Pool) -> None:
        self._wanting.append(pool)
        if self._thread is None:
            self._start()
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._stopping:
                return
            thread = threading.Thread(target=self._run, name="meter-mw-lessor", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:
                _log.warning("there are no leases, as there is no thread for them: %s", failure)
            else:
                self._thread = thread

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(max(0.0, self._out[0].due - time.monotonic()) if self._out else None)
            self._wake.clear()
            self._turn(is_last=self._stopping)
        self._turn(is_last=True)

    def _turn(self, *, is_last: bool) -> None:
        recalls = self._recalls
        try:
            self.turn(recalled=is_last or recalls != self._recalled, is_last=is_last)
        except Exception:  # noqa: BLE001 - a fault must not end the thread
            _log.exception("leases could not be looked after")
        with self._turned:
            self._recalled = recalls
            self._turned.notify_all()

    def turn(self, *, recalled: bool = False, is_last: bool = False) -> None:
        """Settle what is over, and grant what is wanted.

        What is `recalled` is over at once; at the last turn all is settled, and what is in flight is used.
        """
        self._end(recalled=recalled, is_last=is_last)
        wanting: list[Pool] = []
        with contextlib.suppress(IndexError):
            while True:
                wanting.append(self._wanting.popleft())
        if wanting and not is_last:
            self._grant(wanting)

    # Grants

    def _grant(self, pools: Sequence[Pool]) -> None:
        now_us = self._stores.blocking.now_us()
        asked: list[tuple[Pool, int, _Asked]] = []
        for pool in pools:
            found = pool.slice(now_us)
            if found is None:
                continue
            one, all_of_them = pool.lent(found.requests)
            command = self._command(pool.tag, one, all_of_them, found.requests, now_us)
            if command is None:
                pool.refused(now_us)
            else:
                asked.append((pool, found.lasts_us, command))
        granted = self._admitted([each[2] for each in asked])
        for (pool, lasts_us, _), grant in zip(asked, granted, strict=True):
            if grant is None:
                pool.refused(now_us)
            else:
                lease = pool.granted(grant, lasts_us)
                over_in = max(0, lease.until_us - grant.admitted_us) / 1_000_000
                self._put(_Out(time.monotonic() + over_in, pool, lease))

    def _command(
        self, tag: str, one: tuple[Charge, ...], charges: tuple[Charge, ...], requests: int, now_us: int
    ) -> _Asked | None:
        """Enter a slice before it is asked for; None where a successor could not find it (Rule 2)."""
        rid = new_rid(now_us)
        counts = None
        if self._outlives and any(isinstance(each.quota, Cap) for each in one):
            counts = self._trail.lend(rid, _packed(rid, tag, one, now_us))
            if counts is None:
                return None
        admit = Admit(rid, tag, now_us + FENCE * self._patience_us, charges)
        return _Asked(admit, one, requests, counts)

    def _admitted(self, asked: Sequence[_Asked]) -> list[Grant | None]:
        """Ask the store; give what it granted, None for what it did not."""
        if not asked:
            return []
        store = self._stores.blocking
        answers = store.admit_many([each.admit for each in asked], patience_us=self._patience_us)
        return [self._answered(each, answer) for each, answer in zip(asked, answers, strict=True)]

    def _answered(self, asked: _Asked, answer: Tally | StoreUnavailable) -> Grant | None:
        admit = asked.admit
        if isinstance(answer, Tally) and answer.verdict is Verdict.ADMITTED:
            grant = Grant(
                admit.rid, admit.tag, asked.one, asked.requests, answer.readings, answer.now_us, asked.counts
            )
            return self._placed(grant)
        if isinstance(answer, NotAsked | Tally):
            self._trail.leave(admit.rid)
        else:
            cancellation = Cancel(admit.rid, admit.tag, admit.charges)
            self._close(cancellation, 0)
        return None

    def _placed(self, grant: Grant) -> Grant:
        """Enter a grant anew where the store has counted it in another window than was thought."""
        if grant.counts is None:
            return grant
        thought = [_opening(each, grant.admitted_us) for each in grant.charges]
        if all(
            at == reading.state.whole
            for charge, at, reading in zip(grant.charges, thought, grant.readings, strict=True)
            if isinstance(charge.quota, Cap)
        ):
            return grant
        packed = pack(settled(grant, 1, 1), grant.admitted_us, grant.admitted_us)
        return grant._replace(counts=self._trail.lend(grant.rid, packed))

    # Ends

    def _put(self, out: _Out) -> None:
        with self._lock:
            heapq.heappush(self._out, out)

    def _end(self, *, recalled: bool, is_last: bool) -> None:
        """Retire what has had its time, and settle what none of its requests is in flight of any more."""
        now = time.monotonic()
        due: list[_Out] = []
        with self._lock:
            while self._out and (recalled or self._out[0].due <= now):
                due.append(heapq.heappop(self._out))
        flying: list[_Out] = []
        for out in due:
            if out.over is None:
                out.pool.drop(out.lease)
                out.over = now
            lease = out.lease
            if lease.flying == 0 or is_last or not lease.waits or now - out.over >= LINGER_S:
                self._settle(out)
            else:
                if lease.unused and (recalled or now > out.over):
                    flying.append(out)
                out.due = now + min(_LONGEST_LOOK_S, max(_SHORTEST_LOOK_S, (now - out.over) / 2))
                self._put(out)
        if flying:
            self._hand_over(flying)

    def _settle(self, out: _Out) -> None:
        grant, closing = out.lease.grant, out.lease.settle()
        if grant is not None and closing is not None:
            self._close(closing, grant.admitted_us)

    def _close(self, closing: Closing, admitted_us: int) -> None:
        packed = self._trail.packed(closing, admitted_us)
        if packed:
            try:
                self._trail.keep(closing.rid, b"", packed)
            except JournalError as failure:
                _log.debug("the end of a lease is not journaled, and is sent all the same: %s", failure)
        self._stores.settler.put(closing, admitted_us=admitted_us)
        self._trail.leave(closing.rid)

    def _hand_over(self, outs: Sequence[_Out]) -> None:
        """Have debited anew what is in flight of leases that are over, so that the rest comes back."""
        now_us = self._stores.blocking.now_us()
        asked: list[tuple[_Out, _Asked]] = []
        for out in outs:
            first, flying = out.lease.first, out.lease.flying
            caps = [
                (each, lent(each, flying, reading.state.part))
                for each, reading in zip(first.charges, first.readings, strict=True)
                if isinstance(each.quota, Cap)
            ]
            one, all_of_them = tuple(each for each, _ in caps), tuple(each for _, each in caps)
            command = self._command(first.tag, one, all_of_them, flying, now_us) if flying else None
            if command is not None:
                asked.append((out, command))
        granted = self._admitted([each[1] for each in asked])
        for (out, _), grant in zip(asked, granted, strict=True):
            before = out.lease.grant
            if grant is None or before is None:
                continue
            if _windows(before) != _windows(grant):
                self._close(Cancel(grant.rid, grant.tag, grant.charges), 0)
                continue
            closing = out.lease.hand_over(grant)
            if closing is not None:
                self._close(closing, before.admitted_us)

    # All of them

    def flush(self, timeout: float) -> bool:
        """Have all leases returned, within `timeout` seconds; say whether nothing unused is out any more."""
        if self._thread is None:
            return True
        with self._turned:
            self._recalls += 1
            number = self._recalls
        self._wake.set()
        with self._turned:
            return self._turned.wait_for(lambda: self._recalled >= number and self._is_back, timeout)

    @property
    def _is_back(self) -> bool:
        return not any(each.lease.unused for each in list(self._out))

    def recall(self) -> None:
        """Lend nothing more of what is lent now; it is settled soon."""
        for each in list(self._out):
            each.lease.retire()

    def close(self, timeout: float) -> None:
        """Return all leases, and take no more; what is in flight then counts as used."""
        self.flush(timeout)
        with self._lock:
            self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)


def _packed(rid: RequestId, tag: str, charges: tuple[Charge, ...], now_us: int) -> bytes:
    """Give what one request of a slice comes to, as it is kept; the windows are as far as is known."""
    bookings = tuple(Booking(told(each), each.take, _opening(each, now_us)) for each in charges)
    return pack(Settle(rid, tag, bookings), now_us, now_us)


def _opening(charge: Charge, now_us: int) -> int:
    """Give where the window opens that counts now; 0 where there is none."""
    return max((each for each in charge.windows or () if each <= now_us), default=0)


def _windows(grant: Grant) -> list[int]:
    """Give where the windows opened that a grant was counted in."""
    return [
        reading.state.whole
        for charge, reading in zip(grant.charges, grant.readings, strict=True)
        if isinstance(charge.quota, Cap)
    ]
