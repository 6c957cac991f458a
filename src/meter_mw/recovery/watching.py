"""Watches the store by the canaries of some estates, and says when it has lost what it was told.

Rule 1: a loss is on record with its estate before the canary is written again (canary.py, rule 3).
Rule 2: while counts are being brought back, here or elsewhere, `learning` says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from meter_mw.journal import Position
from meter_mw.journal.estates import begun_us
from meter_mw.recovery.marks import Marks
from meter_mw.stores import canary
from meter_mw.stores.canary import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.recovery.register import Register
    from meter_mw.stores.canary import Beat

_log = logging.getLogger(__name__)

_START = Position(0, 0)
_NEWBORN_US = 60_000_000
"""How old an estate may be when its first canary is written, for what came before to be sent again (µs)."""

_IN_DOUBT_US = 5_000_000
"""A canary that was found is followed by the next within this time: what came later is surely lost (µs)."""


@dataclass(slots=True, eq=False)
class Canaries:
    """What is known of the canaries of one estate: when they were written last, and where data is lost."""

    estate: Path
    register: Register
    last: dict[str, Written] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


class Watched(Protocol):
    """An estate whose closings may have to be sent again."""

    canaries: Canaries

    def marks(self) -> Marks:
        """Give how far its closings are settled."""

    def go_back(self, marks: Marks) -> None:
        """Have it on record that they are settled no further than this."""


class Watcher:
    """Writes canaries, and knows whether counts are being brought back. Used by one thread at a time."""

    def __init__(self, store: canary.Asked, now_us: Callable[[], int], *, learns: bool) -> None:
        self._store = store
        self._now_us = now_us
        self._learns = learns
        self._until_us = 0

    @property
    def learning(self) -> bool:
        """Whether counts are being brought back, so that a hard cap cannot be relied on."""
        return self._until_us != 0 and self._until_us > self._now_us()

    def look(self, estates: Sequence[Watched]) -> None:
        """Write all canaries, and send back those whose store has lost data; raises StoreUnavailable."""
        learn_us = canary.LEARN_US if any(each.canaries.lost for each in estates) else 0
        for each in estates:
            known = {*each.canaries.last}
            beats = self._beat(each, learn_us)
            doubted = [found for found in beats if not found.is_fine]
            first = [found for found in beats if found.is_fine and found.part not in known]
            if first:
                self._begin(each, first)
            if doubted:
                self._note(each, doubted)
                beats = self._beat(each, canary.LEARN_US if each.canaries.lost else 0)
            until_us = max((found.learn_until_us for found in beats), default=0)
            if self._learns:
                self._until_us = until_us if until_us > self._now_us() else 0

    def _beat(self, watched: Watched, learn_us: int) -> list[Beat]:
        canaries = watched.canaries
        beats = canary.beat(
            self._store, canaries.estate.name, canaries.last, _saying(watched.marks()), learn_us=learn_us
        )
        told = {each.part: Written(each.at_us, each.run) for each in beats if each.is_fine}
        if told:
            canaries.last |= told
            canaries.register.beat(canaries.last)
        return beats

    def _begin(self, watched: Watched, first: list[Beat]) -> None:
        """Send again what was sent before there was a canary: nothing could tell whether that was lost.

        That is little, and the store knows it by its rids. Of an estate that is no newborn it does not, and
        what it is said to have stays settled.
        """
        before, now_us = watched.marks(), min(found.now_us for found in first)
        was_sent, begun = max(before.sent, before.settled), begun_us(watched.canaries.estate)
        if was_sent > _START and begun and now_us - begun < _NEWBORN_US:
            since_us = now_us if before.since_us is None else before.since_us
            sent = was_sent
            watched.go_back(replace(before, settled=_START, sent=sent, since_us=since_us))

    def _note(self, watched: Watched, doubted: list[Beat]) -> None:
        """Go back to where an estate stood when the canary was written that is found."""
        canaries = watched.canaries
        back = _back(watched.marks(), canaries.last, doubted)
        lost = [each for each in doubted if each.lost]
        for each in doubted:
            ago = f"as it was {(each.now_us - each.at_us) / 1e6:.1f} s ago" if each.at_us else "empty"
            what = "has lost data: it is" if each.lost else "was started anew, and may be"
            _log.error("the store %s %s; what it was told since then is sent again", what, ago)
            # What is found has to be found again: more may be lost before the canary is written.
            canaries.last[each.part] = Written(each.at_us, each.run)
        canaries.lost |= {each.part for each in lost}
        watched.go_back(back)
        if self._learns and lost:
            self._until_us = lost[0].now_us + canary.LEARN_US


def _saying(marks: Marks) -> str:
    """Give what a canary says of an estate."""
    since_us = -1 if marks.since_us is None else marks.since_us
    settled, sent = marks.settled, marks.sent
    return f"{settled.sequence}|{settled.offset}|{sent.sequence}|{sent.offset}|{since_us}"


def _said(text: str) -> Marks:
    """Read what a canary said; the beginning where it says nothing."""
    try:
        settled, settled_at, sent, sent_at, since = map(int, text.split("|"))
    except ValueError:
        return Marks()
    return Marks(Position(settled, settled_at), Position(sent, sent_at), None if since < 0 else since)


def _back(before: Marks, last: dict[str, Written], doubted: list[Beat]) -> Marks:
    """Give what is known of an estate's closings once the store went back to these canaries."""
    found = [_said(each.said) for each in doubted]
    settled = min(before.settled, *(each.settled for each in found))
    since = [each.at_us for each in doubted] + [each.since_us for each in found if each.since_us is not None]
    lost = [each for each in doubted if each.lost]
    if not lost:  # the store may have all of it
        return replace(before, settled=settled, since_us=min(since))
    follows_us = max(_followed_us(each, last.get(each.part)) for each in lost)
    if before.lost_after_us is not None:
        follows_us = max(follows_us, before.lost_after_us)
        since.append(before.lost_since_us or 0)
    return Marks(settled, settled, None, follows_us, min(since), before.beyond_us)


def _followed_us(beat: Beat, last: Written | None) -> int:
    """Give the moment after which all is lost: at the latest when the next canary was written."""
    latest_us = beat.at_us + _IN_DOUBT_US if beat.at_us else 0
    return min(latest_us, last.at_us) if last else latest_us
