"""What a request is told, and what has to be known of that when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
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


class Admission(NamedTuple):
    """The answer for the whole request, and what has to be settled when it ends.

    `standings` is empty where no store was asked or none answered. `denied_by` names the limits that
    had no room, `would_deny` those in shadow that would have refused the request. `granted` are the units
    that each charge was given. `overage` are the units of this request beyond what a limit includes. Of a
    part of a long exchange `first` is the rid of its first, and `part` its number. `sized` says that the
    length of the request's body was declared. `asked_us` is when the store charged it, or may have; 0 where
    it surely did not. `shares` were taken from leases: of what they stand for the store was not asked, and
    `lines`, `charges`, `windows` and `granted` are about the rest.
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
    shares: tuple[Share, ...] = ()

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
