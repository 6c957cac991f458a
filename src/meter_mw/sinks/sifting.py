"""Sends what a destination takes or refuses as a whole until each item has an answer of its own. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from meter_mw.sinks.answers import Answer
from meter_mw.sinks.base import Outcome, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_T = TypeVar("_T")


def sift(
    items: Sequence[_T],
    attempt: Callable[[Sequence[_T]], Answer | Retry | Unknown],
    read: Callable[[Answer, Sequence[_T]], Mapping[int, Outcome]],
) -> list[Outcome]:
    """Send the items, and return what became of each, in their order.

    `read` gives what an answer says of the items that were sent, by their places. What it leaves out is
    sent again: as it is where the answer spoke of others, in halves where it spoke of none.
    After an attempt that failed as a whole, nothing more is sent.
    """
    found: dict[int, Outcome] = {}
    stack: list[Sequence[int]] = [range(len(items))] if items else []
    failure: Outcome | None = None
    while stack and failure is None:
        places = stack.pop()
        part = [items[place] for place in places]
        answer = attempt(part)
        said = read(answer, part) if isinstance(answer, Answer) else dict.fromkeys(range(len(part)), answer)
        if not said and len(part) == 1:
            said = {0: Unknown("an answer that says nothing of a single event")}
        found |= {places[place]: outcome for place, outcome in said.items()}
        rest = [place for index, place in enumerate(places) if index not in said]
        middle = len(rest) if said else len(rest) // 2
        stack += [each for each in (rest[middle:], rest[:middle]) if each]
        if len(said) == len(part) and all(isinstance(each, Retry | Unknown) for each in said.values()):
            failure = said[0]
    after = failure.after if isinstance(failure, Retry | Unknown) else None
    unsent = Retry(after, "not sent: the attempt before it failed")
    return [found.get(place, unsent) for place in range(len(items))]
