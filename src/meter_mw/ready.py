"""What a caller's requests on a route ask for, worked out once, and what of it needs no store."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.charging import asked_of
from meter_mw.model import MESSAGES, Count
from meter_mw.policy.terms import Speed
from meter_mw.quota import Cap, Rate
from meter_mw.recent import Recent
from meter_mw.stores.port import Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.charging import Asked
    from meter_mw.leasing.pool import Pool, Share
    from meter_mw.model import Request
    from meter_mw.policy.policy import Caller, Policy, Route
    from meter_mw.policy.terms import Line
    from meter_mw.stores.port import Charge

_MOST = 8_192
"""Callers on routes that are kept ready for their next request, at least as many as this."""

_LOOK_AGAIN_US = 1_000_000
"""The store is asked again about a caller that it refused after this time at the latest (µs)."""


class Purse(NamedTuple):
    """That of what is asked which one holder keeps, by its places, and the pool it may be taken from."""

    places: tuple[int, ...]
    pool: Pool | None


class Part(NamedTuple):
    """That of what is asked for which the store is needed; `purses` tell where in it their charges are."""

    lines: tuple[Line, ...]
    charges: tuple[Charge, ...]
    places: tuple[int, ...]
    purses: tuple[Purse, ...]


class Ready:
    """What a caller's requests on a route ask for, while the windows of its caps last."""

    __slots__ = ("_denied", "_denied_us", "_parts", "asked", "caller", "places", "purses", "route")

    def __init__(self, route: Route, caller: Caller, asked: Asked, purses: tuple[Purse, ...]) -> None:
        self.route = route
        self.caller = caller
        self.asked = asked
        self.purses = purses
        self.places = tuple(purse.places for purse in purses)
        self._parts: dict[int, Part] = {}
        self._denied: tuple[Part, Tally] | None = None
        self._denied_us = -_LOOK_AGAIN_US

    def holds(self, now_us: int) -> bool:
        """Whether it is what requests ask for now."""
        asked = self.asked
        return asked.since_us <= now_us < asked.until_us

    def draw(self, now_us: int) -> tuple[Share | None, ...]:
        """Take from each purse what a request is charged there, where that needs no store."""
        return tuple([None if purse.pool is None else purse.pool.take(now_us) for purse in self.purses])

    def part(self, drawn: Sequence[Share | None]) -> Part:
        """Give what is still to be asked of the store."""
        missing = 0
        for number, share in enumerate(drawn):
            if share is None:
                missing |= 1 << number
        part = self._parts.get(missing)
        if part is None:
            chosen = [purse for number, purse in enumerate(self.purses) if missing >> number & 1]
            part = self._parts[missing] = _part(self.asked, chosen)
        return part

    def saw(self, part: Part, tally: Tally) -> None:
        """Note what the store has said of a part."""
        for places, pool in part.purses:
            if pool is not None:
                pool.saw([tally.readings[place] for place in places], tally.now_us)
        if tally.verdict is Verdict.DENIED:
            self._note_denial(part, tally)

    def _note_denial(self, part: Part, tally: Tally) -> None:
        """Remember the second refusal within a moment, where only time can end it."""
        since_us, self._denied_us = tally.now_us - self._denied_us, tally.now_us
        if 0 <= since_us < _LOOK_AGAIN_US and _is_lasting(part, tally, tally.now_us):
            self._denied = (part, tally)

    def denied(self, now_us: int) -> tuple[Part, Tally] | None:
        """Give what the store refused lately, and how it stands now, if that goes on: nobody need ask."""
        if self._denied is None:
            return None
        part, tally = self._denied
        if 0 <= now_us - tally.now_us < _LOOK_AGAIN_US and _is_lasting(part, tally, now_us):
            return part, Tally(Verdict.DENIED, now_us, tally.readings)
        self._denied = None
        return None


def _part(asked: Asked, purses: list[Purse]) -> Part:
    places = tuple(sorted(place for purse in purses for place in purse.places))
    return Part(
        tuple(asked.lines[place] for place in places),
        tuple(asked.charges[place] for place in places),
        places,
        tuple(Purse(tuple(map(places.index, purse.places)), purse.pool) for purse in purses),
    )


def _is_lasting(part: Part, tally: Tally, now_us: int) -> bool:
    """Whether a limit that had no room has none yet, unless somebody has given back meanwhile."""
    for line, charge, reading in zip(part.lines, part.charges, tally.readings, strict=True):
        if not reading.fits and not charge.shadow and line.limit.speed is not Speed.STRICT:
            quota = charge.quota
            if isinstance(quota, Rate) and quota.wait_us(reading.state, now_us, charge.need) != 0:
                return True
            if isinstance(quota, Cap) and now_us < reading.until_us:
                return True
    return False


class Readies:
    """Keeps ready what was asked for lately.

    `pools` gives the pool of a tag's charges, or `None` where each request has to be asked for.
    """

    def __init__(
        self,
        policy: Policy,
        pools: Callable[[str, tuple[Charge, ...], Speed], Pool | None] | None = None,
    ) -> None:
        self._policy = policy
        self._pools = pools
        of_plans = (limit for plan in policy.plans.values() for limit in plan.limits)
        of_routes = (limit for route in policy.routes for limit in route.limits)
        self.weighs = any(limit.meter.count is Count.REQUEST_BYTES for limit in chain(of_plans, of_routes))
        self._known: Recent[tuple[int, int, bool], Ready] = Recent(_MOST)

    def of(self, route: Route, caller: Caller, request: Request, now_us: int) -> Ready:
        """Give what a request of `caller` on `route` asks for; a route with a price of its own is priced."""
        if route.pricing is not None or request.is_socket:
            return self._made(route, caller, self._lines(route, caller, request, now_us), now_us)
        bodiless = self.weighs and request.declared == 0
        kind = (id(route), id(caller), bodiless)
        known = self._known.get(kind)
        if known is not None and known.holds(now_us):
            return known
        lines = self._lines(route, caller, request, now_us)
        ready = self._made(route, caller, lines, now_us)
        if bodiless or not self.weighs:
            self._known.put(kind, ready)  # it keeps the route and the caller, and so their ids
        return ready

    def _lines(self, route: Route, caller: Caller, request: Request, now_us: int) -> tuple[Line, ...]:
        lines = self._policy.lines(route, caller, now_us)
        return tuple(_sized(line, request) for line in lines if _bears(line, request))

    def _made(self, route: Route, caller: Caller, lines: tuple[Line, ...], now_us: int) -> Ready:
        asked = asked_of(self._policy, lines, caller, now_us)
        by_holder: dict[str, list[int]] = {}
        for place, charge in enumerate(asked.charges):
            by_holder.setdefault(charge.holder, []).append(place)
        purses = tuple(
            Purse(tuple(places), self._pool(caller, asked, places)) for places in by_holder.values()
        )
        return Ready(route, caller, asked, purses)

    def _pool(self, caller: Caller, asked: Asked, places: list[int]) -> Pool | None:
        if self._pools is None:
            return None
        speeds = {asked.lines[place].limit.speed for place in places}
        slowest = next(each for each in Speed if each in speeds)
        if slowest is Speed.STRICT:
            return None
        return self._pools(caller.tag, tuple(asked.charges[place] for place in places), slowest)


def _bears(line: Line, request: Request) -> bool:
    """Whether a limit says anything of a request: one on messages is for WebSockets."""
    return request.is_socket or line.limit.meter.count not in MESSAGES


def _sized(line: Line, request: Request) -> Line:
    """Give the line with what the request declares of its body, which all has to fit."""
    if line.limit.meter.count is not Count.REQUEST_BYTES or request.declared is None:
        return line
    return replace(line, need=request.declared, take=request.declared)
