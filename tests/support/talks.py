"""Conversations with the core, held by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from meter_mw.core import admit
from meter_mw.model import Receipt, RequestId
from meter_mw.quota import Rate, Span
from meter_mw.stores.port import Admit, Reading, Tally, Verdict
from meter_mw.talk import Resolve
from support.policies import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Generator

    from meter_mw.admission import Admission
    from meter_mw.model import Request
    from meter_mw.policy.policy import Policy
    from meter_mw.talk import Conversation

T = TypeVar("T")

NOW_US = 1_767_225_600 * SECOND_US  # 1 January 2026, 00:00 UTC
RID = RequestId("01900000-0000-7000-8000-000000000001")
RECEIPT = Receipt(
    request_bytes=700, response_bytes=9_000, reported={"tokens": 812}, status=200, duration_us=15
)


def ended(talk: Generator[object, object, T], reply: object = None) -> T:
    """Send the last reply, and give what the conversation returns."""
    with pytest.raises(StopIteration) as end:
        talk.send(reply)
    result: T = end.value.value
    return result


def begun(policy: Policy, asked: Request, now_us: int = NOW_US) -> tuple[Conversation[Admission], Admit]:
    """Begin a conversation that first asks the store."""
    talk = admit(policy, asked, RID, now_us)
    command = next(talk)
    assert isinstance(command, Admit)
    return talk, command


def resolving(policy: Policy, asked: Request) -> tuple[Conversation[Admission], Resolve]:
    """Begin a conversation that first asks the resolver."""
    talk = admit(policy, asked, RID, NOW_US)
    command = next(talk)
    assert isinstance(command, Resolve)
    return talk, command


def failed(talk: Generator[object, object, T], outage: Exception) -> T:
    """Throw an outage in, and give what the conversation returns."""
    with pytest.raises(StopIteration) as end:
        talk.throw(outage)
    result: T = end.value.value
    return result


def undisturbed(policy: Policy, asked: Request) -> Admission:
    """Hold a conversation that asks nobody anything."""
    return ended(admit(policy, asked, RID, NOW_US))


def admitted(command: Admit, now_us: int = NOW_US) -> Tally:
    """Answer as a store at rest would that has room for everything."""
    readings = []
    for each in command.charges:
        if isinstance(each.quota, Rate):
            readings.append(Reading(Span(now_us, 0)))
        else:
            _, opening, closing, _ = each.windows or (0, 0, 0, 0)
            readings.append(Reading(Span(opening, each.take), until_us=closing, granted=each.take))
    return Tally(Verdict.ADMITTED, now_us, tuple(readings))


def admission_on(rules: Policy, asked: Request) -> Admission:
    """Give an admission by a store with room for everything."""
    talk, command = begun(rules, asked)
    return ended(talk, admitted(command))
