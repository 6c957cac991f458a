"""Lets more of an exchange pass: counted in one step with its room, and asked for where there is none."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw import lasting
from meter_mw.model import Count

if TYPE_CHECKING:
    from collections.abc import Generator

    from meter_mw.driving import Driver
    from meter_mw.exchange import Exchange, Passing
    from meter_mw.lasting import Room
    from meter_mw.model import RequestId
    from meter_mw.policy.policy import Policy
    from meter_mw.stores.port import Store
    from meter_mw.talk import Conversation

_NAP_S = 0.002
"""Between two looks whether a part has been turned over."""


class Gate:
    """What the edges ask before more passes; waits for the store at most as long as the policy says."""

    def __init__(self, policy: Policy, driver: Driver, store: Store) -> None:
        self._policy = policy
        self._driver = driver
        self._store = store

    def lets(self, exchange: Exchange, *passing: Passing, refuses: bool = False) -> Room | None:
        """Count what is about to pass; where it does not fit, count nothing and give the room there is.

        See `lasting.top_up` for `refuses`.
        """
        if exchange.claims(*passing):
            return None
        letting, room = self._letting(exchange, passing), None
        try:
            while True:
                step = letting.send(room)
                if step is None:
                    time.sleep(_NAP_S)
                else:
                    room = self._top_up(exchange, *step, refuses=refuses)
        except StopIteration as end:
            result: Room | None = end.value
            return result

    async def alets(self, exchange: Exchange, *passing: Passing, refuses: bool = False) -> Room | None:
        """Count what is about to pass without holding up the event loop; see `lets`."""
        if exchange.claims(*passing):
            return None
        letting, room = self._letting(exchange, passing), None
        try:
            while True:
                step = letting.send(room)
                if step is None:
                    await asyncio.sleep(_NAP_S)
                else:
                    room = await self._atop_up(exchange, *step, refuses=refuses)
        except StopIteration as end:
            result: Room | None = end.value
            return result

    def _letting(
        self, exchange: Exchange, passing: tuple[Passing, ...]
    ) -> Generator[Passing | None, Room | None, Room | None]:
        """Claim what is about to pass: yields what has no room and is sent the room, or None for a nap."""
        until = self._until()
        while not exchange.claims(*passing) and not exchange.ended:
            full = []
            for each in exchange.lacking(*passing):
                total = (
                    exchange.passed(each[0]) + each[1]
                )  # before anyone is asked: others may pass meanwhile
                asked_in = _turn_of(exchange)
                room = _answered((yield each))
                while _is_early(room, exchange, asked_in, until):  # for what the part before gives back
                    yield None
                    asked_in = _turn_of(exchange)
                    room = _answered((yield each))
                full += [room] if _is_full(room, total) else []
            if full:
                return _joined(full)
        return None

    def _until(self) -> float:
        """Give until when to wait for a part that is turned over: it asks the store twice."""
        return time.monotonic() + 2 * self._policy.deadline_us / 1_000_000

    def top_up(self, exchange: Exchange, count: Count, units: int) -> None:
        """Have `units` more of a count held, if there are; nothing is said if not."""
        self._top_up(exchange, count, units, refuses=True)

    def _top_up(self, exchange: Exchange, count: Count, units: int, *, refuses: bool) -> Room:
        while True:
            rid, talk = self._asking(exchange, count, units, refuses=refuses)
            room = exchange.widened(count, self._driver.drive(talk), rid)
            if room is not None:  # else another part has begun meanwhile
                return room

    async def _atop_up(self, exchange: Exchange, count: Count, units: int, *, refuses: bool) -> Room:
        while True:
            rid, talk = self._asking(exchange, count, units, refuses=refuses)
            room = exchange.widened(count, await self._driver.adrive(talk), rid)
            if room is not None:
                return room

    def _asking(
        self, exchange: Exchange, count: Count, units: int, *, refuses: bool
    ) -> tuple[RequestId, Conversation[Room]]:
        """Ask for `units` more than have passed, in the part that the exchange is in now."""
        admission, told, had = exchange.standing_of(count)
        total = exchange.passed(count) + units - told
        expected = None
        if count is Count.RESPONSE_BYTES and exchange.expected is not None:
            expected = max(0, exchange.expected - told)
        elif count is Count.REQUEST_BYTES and admission.sized:
            expected = total
        talk = lasting.top_up(
            self._policy,
            admission,
            count,
            total,
            self._store.now_us(),
            had=had,
            expected=expected,
            refuses=refuses,
        )
        return admission.rid, talk


def _answered(room: Room | None) -> Room:
    if room is None:
        raise ValueError("who asks for room is sent it")
    return room


def _is_full(room: Room, total: int) -> bool:
    return bool(room.denied_by) or room.unavailable or room.passes < total


def _turn_of(exchange: Exchange) -> tuple[int, bool]:
    """Give the part that an exchange is in, and whether that is still being turned over."""
    part = exchange.admission.part  # first, so that a turn which begins now is seen by either
    return part, exchange.is_turning


def _is_early(room: Room, exchange: Exchange, asked_in: tuple[int, bool], until: float) -> bool:
    """Whether there may be more room by now, or soon: a part was turned over while the store was asked.

    What the part before did not use is about to come back, or has just done so.
    """
    turned = asked_in[1] or _turn_of(exchange) != asked_in
    return bool(room.denied_by) and turned and time.monotonic() < until


def _joined(rooms: list[Room]) -> Room:
    """Give several rooms that are full as one."""
    return replace(
        rooms[0],
        denied_by=tuple(each for room in rooms for each in room.denied_by),
        unavailable=any(room.unavailable for room in rooms),
    )
