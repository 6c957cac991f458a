"""One holder's quotas in memory: how they stand, what is charged to them, held, and given back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meter_mw.periods import Period
from meter_mw.quota import (
    AT_REST,
    Cap,
    Rate,
    Slots,
    Span,
    Used,
    arrival,
    beyond,
    booked,
    closing_of,
    has_room,
    penalised,
    plus,
    recounted,
    returned,
    standing,
)
from meter_mw.stores.port import KEPT_US, NO_WINDOWS, Note, Reading

if TYPE_CHECKING:
    from meter_mw.model import RequestId
    from meter_mw.stores.port import Booking, Charge

_UNUSED = Used()

_PLAIN = Cap(0, Period.DAY)
"""What a count is given units back by: nothing becomes known, so nothing is marked or announced."""


class Taken(NamedTuple):
    """What a request was charged of one quota, or holds of it until `until_us`.

    Of a cap or slots: `units` of the count that began at `start_us`, `overage` of them marked as such, and
    `base` units before in windows that are closed. Of a rate: a `span`, which drains until `due_us`.
    `asked` is what the charge was to take.
    """

    quota: Rate | Cap | Slots
    until_us: int = 0
    start_us: int = 0
    units: int = 0
    base: int = 0
    overage: int = 0
    span: Span = AT_REST
    due_us: int = 0
    asked: int = -1


class RateAsk(NamedTuple):
    """A charge of a rate beside its arrival: what it needs and takes beyond what is held already."""

    charge: Charge
    quota: Rate
    state: Span
    held: Taken | None
    need: Span
    take: Span
    fits: bool

    def reading(self) -> Reading:
        """Say how the rate stands before the charge."""
        return Reading(self.state, self.fits)


class CountAsk(NamedTuple):
    """A charge of a cap or slots beside its count: what it needs and takes beyond what is held already."""

    charge: Charge
    quota: Cap | Slots
    state: Used
    held: Taken | None
    need: int
    take: int
    room: int

    @property
    def fits(self) -> bool:
        """Whether what is needed is free; nothing always is."""
        return self.need <= max(0, self.room)

    @property
    def granted(self) -> int:
        """The units that are given: what is needed, and as much as there is of the rest."""
        return min(self.take, max(self.need, self.room))

    def reading(self) -> Reading:
        """Say how the count stands before the charge."""
        return Reading(Span(self.state.start_us, self.state.used), self.fits, self.state.until_us)


Ask: TypeAlias = RateAsk | CountAsk


@dataclass(slots=True)
class Holder:
    """The state of all quotas of one holder."""

    seen_us: int = 0
    rates: dict[str, Span] = field(default_factory=dict)
    counts: dict[str, Used] = field(default_factory=dict)
    holds: dict[tuple[RequestId, str], Taken] = field(default_factory=dict)
    due_us: int = 0
    changed: bool = False

    def copy(self) -> Holder:
        """Give the same state, to be changed apart."""
        return Holder(self.seen_us, dict(self.rates), dict(self.counts), dict(self.holds), self.due_us)

    def wake(self, now_us: int) -> None:
        """Follow a clock that went back (Rule 4), and take back what was held too long (Rule 6)."""
        if now_us < self.seen_us:
            back_us = self.seen_us - now_us
            self.rates = {id_: Span(each.whole - back_us, each.part) for id_, each in self.rates.items()}
            self.seen_us = now_us
        if self.due_us and now_us >= self.due_us:
            over = sorted((each.until_us, key) for key, each in self.holds.items() if each.until_us <= now_us)
            for _, (rid, id_) in over:
                self._give_back(id_, self.holds.pop((rid, id_)), now_us)
            self.due_us = min((each.until_us for each in self.holds.values()), default=0)
            self.changed = True

    def ask(
        self, charge: Charge, now_us: int, rid: RequestId | None = None, after: RequestId | None = None
    ) -> Ask:
        """Look how a charge stands, with what `rid` holds already, and the slots that `after` hands over."""
        quota = charge.quota
        held = self.holds.get((rid, charge.id)) if rid and charge.held else None
        if isinstance(quota, Rate):
            state = arrival(self.rates.get(charge.id, AT_REST), quota, now_us)
            need = quota.span(charge.need)
            take = need if charge.take == charge.need else quota.span(charge.take)
            if held:
                need, take = beyond(need, held.span, quota), beyond(take, held.span, quota)
            return RateAsk(charge, quota, state, held, need, take, has_room(state, quota, now_us, need))
        used = self.counts.get(charge.id, _UNUSED)
        room = (quota.most if isinstance(quota, Cap) else quota.units) - used.used
        if charge.windows is not None:
            used = standing(used, charge.windows, now_us)
            room = quota.most - used.used if isinstance(quota, Cap) else room
        handed = self.holds.get((after, charge.id)) if after and isinstance(quota, Slots) else None
        room += handed.units if handed else 0
        had_units = held.base + held.units if held else 0
        need_units, take_units = max(0, charge.need - had_units), max(0, charge.take - had_units)
        return CountAsk(charge, quota, used, held, need_units, take_units, room)

    def charge(
        self, ask: Ask, rid: RequestId, until_us: int, after: RequestId | None
    ) -> tuple[Reading, Taken]:
        """Charge what is asked, and say what that came to."""
        if isinstance(ask, RateAsk):
            reading, taken = self._charge_rate(ask, until_us)
            takes = ask.take != AT_REST
        else:
            reading, taken = self._charge_count(ask, until_us, after)
            takes = ask.granted > 0
        if ask.charge.held and (ask.held or takes):
            self.holds[rid, ask.charge.id] = taken
            self.due_us = min(self.due_us or until_us, until_us)
            takes = True
        self.changed = self.changed or takes
        return reading, taken

    def _charge_rate(self, ask: RateAsk, until_us: int) -> tuple[Reading, Taken]:
        state = plus(ask.state, ask.take, ask.quota.denominator)
        if ask.take != AT_REST:
            self.rates[ask.charge.id] = state
        total = plus(ask.held.span, ask.take, ask.quota.denominator) if ask.held else ask.take
        return Reading(state), Taken(
            ask.quota, until_us, span=total, due_us=state.whole, asked=ask.charge.take
        )

    def _charge_count(self, ask: CountAsk, until_us: int, after: RequestId | None) -> tuple[Reading, Taken]:
        before, quota, units = ask.state, ask.quota, ask.granted
        if isinstance(quota, Cap):
            state = recounted(before, quota, units, held=units if ask.charge.held else 0)
            renews = ask.held is not None
        else:
            handed = self.holds.pop((after, ask.charge.id), None) if after else None
            count = before.used - (handed.units if handed else 0) + units
            state, renews = Used(0, max(before.until_us, until_us), count), bool(handed or ask.held)
        if units or renews:
            self.counts[ask.charge.id] = state
            self.changed = True
        taken = _widened(ask, until_us, state.overage - before.overage)
        reading = Reading(
            Span(state.start_us, state.used),
            until_us=state.until_us,
            granted=taken.base + taken.units,
            overage=taken.overage,
            warned=_reached(before, state),
        )
        return reading, taken

    def penalise(self, ask: Ask, now_us: int) -> Reading:
        """Count a refused request against a rate."""
        if not isinstance(ask, RateAsk):
            return ask.reading()
        state = penalised(ask.state, ask.quota, now_us, ask.take)
        self.rates[ask.charge.id] = state
        self.changed = True
        return Reading(state, ask.fits)

    def settle(self, rid: RequestId, booking: Booking, taken: Taken | None, now_us: int) -> Note | None:
        """Put the truth in place of what was taken or held; say what there is to say of it."""
        charge, quota = booking.charge, booking.charge.quota
        hold = self.holds.pop((rid, charge.id), None)
        if hold is None and taken is not None and taken.asked == booking.actual and taken.quota is quota:
            return None
        had = hold or taken or Taken(quota, start_us=booking.window_us)
        if isinstance(quota, Rate):
            state = self.rates.get(charge.id, AT_REST)
            actual = quota.span(booking.actual)
            after = booked(state, quota, now_us, taken=had.span, due_us=had.due_us, actual=actual)
            if after != state:
                self.rates[charge.id] = after
                self.changed = True
            return None
        if isinstance(quota, Cap):
            return self._settle_cap(quota, booking, had, held=had.units if hold else 0)
        if hold:
            self._give_back(charge.id, hold, now_us)
        return None

    def _settle_cap(self, cap: Cap, booking: Booking, had: Taken, *, held: int) -> Note | None:
        change = max(0, booking.actual - had.base) - had.units
        before = self.counts.get(booking.charge.id, _UNUSED)
        if had.start_us < before.start_us:
            return None  # its window is over
        if had.start_us >= before.until_us:
            if change <= 0:
                return None
            before = Used(had.start_us, _closing(booking, had.start_us))
        elif change == 0 and held == 0:
            return None
        unmarked = min(had.overage, max(0, -change))
        after = recounted(before, cap, change, held=-held, unmarked=unmarked)
        self.counts[booking.charge.id] = after
        self.changed = True
        overage, warned = max(0, after.overage - before.overage + unmarked), _reached(before, after)
        return Note(0, overage, warned) if overage or warned != (0, 0) else None

    def _give_back(self, id_: str, hold: Taken, now_us: int) -> None:
        self.changed = True
        if isinstance(hold.quota, Rate):
            state = self.rates.get(id_, AT_REST)
            self.rates[id_] = returned(state, hold.quota, hold.span, hold.due_us, now_us)
            return
        used = self.counts.get(id_, _UNUSED)
        if isinstance(hold.quota, Slots):
            self.counts[id_] = used._replace(used=max(0, used.used - hold.units))
        elif used.start_us == hold.start_us:
            self.counts[id_] = recounted(used, _PLAIN, -hold.units, held=-hold.units)

    def rest(self, now_us: int) -> None:
        """Note when the last change was made, and forget what is over."""
        if not self.changed:
            return
        self.changed = False
        self.seen_us = now_us
        self.forget(now_us)

    def forget(self, now_us: int) -> None:
        """Drop what no longer says anything."""
        for rate in [id_ for id_, state in self.rates.items() if state.whole + KEPT_US < now_us]:
            del self.rates[rate]
        for count in [id_ for id_, state in self.counts.items() if state.until_us + KEPT_US < now_us]:
            del self.counts[count]


def _widened(ask: CountAsk, until_us: int, overage: int) -> Taken:
    """Give what is held, or was taken, with what was granted on top."""
    held, start_us = ask.held, ask.state.start_us
    if held is not None and held.start_us == start_us:
        return held._replace(until_us=until_us, units=held.units + ask.granted)
    base = held.base + held.units if held is not None else 0
    return Taken(ask.quota, until_us, start_us, ask.granted, base, overage, asked=ask.charge.take)


def _reached(before: Used, after: Used) -> tuple[int, int]:
    """Give the thresholds that were reached between two counts, as what was announced before and after."""
    return (before.warned, after.warned) if after.warned > before.warned else (0, 0)


def _closing(booking: Booking, start_us: int) -> int:
    """Give where a count closes that begins now with a booking."""
    if start_us != booking.window_us:
        return start_us
    return closing_of(booking.charge.windows or NO_WINDOWS, start_us)
