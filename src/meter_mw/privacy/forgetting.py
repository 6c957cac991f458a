"""How a subject is forgotten: what stands in the way is said first, and then every place gives up its name.

Rule 1: amounts stay, under a tombstone: the law has bills kept, and what is kept says nobody's name.
Rule 2: usage that nobody has been billed for is not forgotten: it is delivered first.
Rule 3: it may be repeated: what was done stays done, and what was not is done then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.model import SubjectId
    from meter_mw.privacy.held import Place


class Forgotten(NamedTuple):
    """How many records of a place say nobody's name any more, how many still do, and for how long."""

    place: str
    erased: int
    remaining: int
    remains: str


def obstacles(places: Iterable[Place], subject: str) -> list[str]:
    """Say what is to be done before a subject can be forgotten."""
    return [f"{place.name}: {said}" for place in places if (said := place.obstacle(subject))]


def forget(places: Iterable[Place], subject: str, tombstone: SubjectId) -> list[Forgotten]:
    """Take the identity of a subject out of every place, in their order."""
    done = []
    for place in places:
        erased = place.erase(subject, tombstone)
        remaining = sum(1 for _ in place.held(subject))
        done.append(Forgotten(place.name, erased, remaining, place.remains if remaining else ""))
    return done


def keys_of(places: Iterable[Place], subject: str) -> tuple[str, ...]:
    """Give the pseudonyms of the keys that a subject's records name, in their order."""
    found: dict[str, None] = {}
    for place in places:
        for each in place.held(subject):
            key = each.record.get("key") or (each.record.get("data") or {}).get("key")
            if isinstance(key, str):
                found[key] = None
    return tuple(found)
