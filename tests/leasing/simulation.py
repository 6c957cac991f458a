"""Several processes that lease from one store in memory, in a time that is made up: exact, and repeatable.

A process here is what a real one has of leases, without its threads: a lender that takes its turn a little
late, a settler that sends a little later still, and a register that outlives it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

from meter_mw.leasing.grants import Grants
from meter_mw.leasing.lending import Lending
from meter_mw.leasing.pool import Pool, Share
from meter_mw.model import RequestId
from meter_mw.policy.terms import Speed
from meter_mw.recovery.reaping import spent
from meter_mw.recovery.register import Entry
from meter_mw.stores.access import Stores
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Booking, Cancel, Charge, Closing, Settle, Tally, Verdict

TAG = "subject"
START_US = 1_790_000_000_000_000
STEP_US = 1_000


class Settler:
    """Sends closings some time after they were put."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[tuple[int, Closing]] = []

    def put(self, closing: Closing, admitted_us: int = 0) -> None:
        self._waiting.append((self._world.now_us + self._world.settles_after_us, closing))

    def turn(self) -> None:
        ready = [closing for due_us, closing in self._waiting if due_us <= self._world.now_us]
        self._waiting = [each for each in self._waiting if each[0] > self._world.now_us]
        self._world.store.settle(ready)


class Trail:
    """A register and a journal that outlive their process: closings in the journal are sent all the same."""

    leaving = None

    def __init__(self, world: World) -> None:
        self._world = world
        self.entries: dict[RequestId, tuple[bytes, memoryview]] = {}
        self.journal: list[Closing] = []

    def lend(self, rid: RequestId, packed: bytes) -> memoryview | None:
        counts = memoryview(bytearray(16)).cast("Q")
        self.entries[rid] = packed, counts
        return counts

    def leave(self, rid: RequestId) -> None:
        self.entries.pop(rid, None)

    def packed(self, closing: Closing, admitted_us: int) -> bytes:
        self.journal.append(closing)
        return b""

    def keep(self, rid: RequestId, event: bytes, packed: bytes) -> None:
        raise AssertionError("nothing is packed here")


@dataclass(order=True)
class Flight:
    """A request on its way, and when it will have been served (µs)."""

    ends_us: int
    number: int
    rid: RequestId = field(compare=False)
    share: Share | None = field(compare=False)


class Process:
    """One worker: admits from its pool, or by the store."""

    def __init__(self, world: World, speed: Speed) -> None:
        self._world = world
        self.trail = Trail(world)
        self.settler = Settler(world)
        stores = Stores(world.store, None, self.settler)  # type: ignore[arg-type]  # it settles when told to
        self.lending = Lending(Grants(stores, self.trail, keeps=True), lambda: world.now_us / 1_000_000)
        self._wanted_us: int | None = None
        self.pool = Pool(TAG, world.charges, speed, self._want)
        self.flights: list[Flight] = []

    def _want(self, pool: Pool) -> None:
        self.lending.want(pool)
        self._wanted_us = self._world.now_us + self._world.grants_after_us

    def request(self, lasts_us: int) -> bool:
        world = self._world
        rid = world.rid()
        share = self.pool.take(world.now_us)
        if share is None:
            tally = world.store.admit(Admit(rid, TAG, world.now_us + 1, world.charges))
            self.pool.saw(tally.readings, tally.now_us)
            if tally.verdict is not Verdict.ADMITTED:
                return False
            world.strict += 1
        heapq.heappush(self.flights, Flight(world.now_us + lasts_us, next(world.numbers), rid, share))
        return True

    def turn(self) -> None:
        world = self._world
        while self.flights and self.flights[0].ends_us <= world.now_us:
            self.end(heapq.heappop(self.flights))
        pause = self.lending.pause()
        is_wanted = self._wanted_us is not None and self._wanted_us <= world.now_us
        if is_wanted or pause == 0.0:
            self._wanted_us = None if is_wanted else self._wanted_us
            self.lending.turn()
        self.settler.turn()

    def end(self, flight: Flight) -> None:
        world = self._world
        charged = world.random.random() >= world.refunds
        world.charged += charged
        if flight.share is not None:
            flight.share.lease.end(charged=charged)
        elif not charged:
            bookings = tuple(
                Booking(each, 0 if each.id.startswith("c") else each.take, world.opening)
                for each in world.charges
            )
            self.settler.put(Settle(flight.rid, TAG, bookings))

    def killed(self) -> None:
        """Be killed: a successor ends what was on its way, as the journal and the register tell it."""
        store = self._world.store
        store.settle(self.trail.journal)
        store.settle([closing for _, closing in self.settler._waiting])
        for packed, counts in self.trail.entries.values():
            entry = Entry(0, packed, b"", lent=True, used=counts[0], refunded=counts[1])
            store.settle([spent(entry).closing])
        store.settle([Cancel(each.rid, TAG, self._world.charges) for each in self.flights if not each.share])
        self._world.voided += len(self.flights)

    def close(self) -> None:
        while self.flights:
            self.end(heapq.heappop(self.flights))
        self.lending.turn(is_last=True)
        self.settler._waiting = [(0, closing) for _, closing in self.settler._waiting]
        self.settler.turn()


class World:
    """A store, some processes, and the time that passes for all of them."""

    def __init__(
        self, charges: tuple[Charge, ...], processes: int, seed: int, *, speed: Speed = Speed.AUTO,
        refunds: float = 0.0, grants_after_us: int = 2_000, settles_after_us: int = 7_000,
    ) -> None:  # fmt: skip
        self.now_us = START_US
        self.random = random.Random(seed)
        self.store = MemoryStore(lambda: self.now_us)
        self.charges = charges
        self.refunds = refunds
        self.grants_after_us, self.settles_after_us = grants_after_us, settles_after_us
        self.numbers = itertools.count()
        self.charged = self.voided = self.admitted = self.strict = 0
        self._speed = speed
        self.processes = [Process(self, speed) for _ in range(processes)]

    @property
    def opening(self) -> int:
        return next((each.windows[1] for each in self.charges if each.windows), 0)

    def rid(self) -> RequestId:
        return RequestId(f"{self.now_us // 1_000:012x}"[:8] + f"-0000-7000-8000-{next(self.numbers):012x}")

    def pass_a_step(self, arrivals: list[int], lasts_us: int) -> bool:
        """Let a millisecond pass, in which so many requests come to each process; whether all got in."""
        self.now_us += STEP_US
        all_in = True
        for process, coming in zip(self.processes, arrivals, strict=True):
            process.turn()
            for _ in range(coming):
                got_in = process.request(int(self.random.expovariate(1 / lasts_us)) if lasts_us else 0)
                self.admitted += got_in
                all_in = all_in and got_in
        return all_in

    def kill(self, number: int) -> None:
        self.processes[number].killed()
        self.processes[number] = Process(self, self._speed)

    def close(self) -> Tally:
        """Have everything ended and settled; give how the charges stand then."""
        for process in self.processes:
            process.close()
        return self.store.peek(TAG, self.charges)
