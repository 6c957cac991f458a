"""What a request is told, and what has to be known of that when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meter_mw.leasing.gauges import Figures
    from meter_mw.leasing.pool import Share
    from meter_mw.model import RequestId
    from meter_mw.policy.policy import Caller, Route
    from meter_mw.policy.terms import Line
    from meter_mw.stores.port import Charge


class Answer(Enum):
    """What a request is told."""

    ALLOWED = "allowed"
    EXEMPT = "exempt"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    UNIDENTIFIED = "unidentified"
    AMBIGUOUS = "ambiguous"
    ODD_PATH = "odd path"


class Standing(NamedTuple):
    """How a caller stands with one limit, after what this request was charged.

    `remaining` units fit at once; the limit is whole again after `reset_us`, where that is known. `wait_us`
    is 0 where the request fitted, the µs until it would, or `None` where it never can. `used` are the units
    that a cap has counted since `start_us`, or the slots that are taken.
    """

    line: Line
    remaining: int
    reset_us: int | None
    wait_us: int | None
    used: int | None = None
    start_us: int = 0


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold that a cap's count has reached: told to one admission or settlement only."""

    line: Line
    units: int
    start_us: int


class Lent(NamedTuple):
    """What of a request was taken from leases: the store was not asked for that.

    `lines` are all that bear on it, in their order; `places` say where in them those of each share are.
    """

    shares: tuple[Share, ...]
    lines: tuple[Line, ...]
    places: tuple[tuple[int, ...], ...]

    def figures(self, now_us: int) -> list[Figures]:
        """Give how the caller stands with the limits, where all of them are lent."""
        if len(self.shares) == 1:
            return self.shares[0].figures(now_us)
        return [figures for _, figures in sorted(self._placed(now_us), key=_place)]

    def standings(self, asked: Sequence[Standing], now_us: int) -> tuple[Standing, ...]:
        """Give how the caller stands with all limits; `asked` is what the store said of the others."""
        lent = dict(self._placed(now_us))
        others = iter(asked)
        return tuple(
            Standing(line, figures.remaining, figures.reset_us, 0, figures.used, figures.start_us)
            if (figures := lent.get(place)) is not None
            else next(others)
            for place, line in enumerate(self.lines)
        )

    def _placed(self, now_us: int) -> Iterator[tuple[int, Figures]]:
        for places, share in zip(self.places, self.shares, strict=True):
            yield from zip(places, share.figures(now_us), strict=True)


def _place(found: tuple[int, Figures]) -> int:
    return found[0]


class Admission(NamedTuple):
    """The answer for the whole request, and what has to be settled when it ends.

    `standings` is empty where no store was asked or none answered. `denied_by` names the limits that
    had no room, `would_deny` those in shadow that would have refused the request. `granted` are the units
    that each charge was given. `overage` are the units of this request beyond what a limit includes. Of a
    part of a long exchange `first` is the rid of its first, and `part` its number. `sized` says that the
    length of the request's body was declared. `asked_us` is when the store charged it, or may have; 0 where
    it surely did not. What is `lent` the store was not asked for: `lines`, `charges`, `windows`, `granted`
    and `standings` are about the rest. `evidence` are fields of its events that the policy asks for beyond
    the default ones.
    """

    answer: Answer
    rid: RequestId
    now_us: int
    route: Route
    caller: Caller | None = None
    lines: tuple[Line, ...] = ()
    charges: tuple[Charge, ...] = ()
    windows: tuple[int, ...] = ()
    granted: tuple[int, ...] = ()
    standings: tuple[Standing, ...] = ()
    denied_by: tuple[Standing, ...] = ()
    would_deny: tuple[Standing, ...] = ()
    overage: tuple[tuple[str, int], ...] = ()
    reached: tuple[Reached, ...] = ()
    reason: str = ""
    first: RequestId | None = None
    part: int = 0
    sized: bool = False
    asked_us: int = 0
    lent: Lent | None = None
    evidence: tuple[tuple[str, str], ...] = ()

    @property
    def every_standing(self) -> tuple[Standing, ...]:
        """How the caller stands with all limits; empty where the store did not answer."""
        if self.lent is None or (self.lines and not self.standings):
            return self.standings
        return self.lent.standings(self.standings, self.now_us)

    @property
    def serves(self) -> bool:
        """Whether the app is to see the request."""
        return self.answer is Answer.ALLOWED or self.answer is Answer.EXEMPT

    @property
    def retry_after_us(self) -> int | None:
        """The µs after which the same request would be admitted; `None` for never."""
        waits = [each.wait_us for each in self.denied_by]
        return None if None in waits else max((wait for wait in waits if wait is not None), default=None)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request has no caller."""

    answer: Answer
    reason: str
