"""What reconciliation asks the ledger: how much each subject has used of each field, and who has used any."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from meter_mw.ledger.records import BUILT_IN, HOUR_US
from meter_mw.ledger.spans import Span
from meter_mw.ledger.summing import Only, sums
from meter_mw.ledger.tables import quantity_hours, usage_hours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

_MOST_ASKED = 500
"""Subjects in one query."""


def totals(
    connection: Connection, source: str, subjects: Sequence[str], start_us: int, end_us: int
) -> dict[tuple[str, str], int]:
    """Give the units of each (subject, field) that came from a source in [start, end), in µs since 1970.

    What there is none of is left out. Subjects are asked for in several queries: for one moment's answer
    the connection is to be `reading`. Raises Purged.
    """
    found: Counter[tuple[str, str]] = Counter()
    if start_us >= end_us:
        return {}
    for first in range(0, len(subjects), _MOST_ASKED):
        only = Only(subjects[first : first + _MOST_ASKED], source)
        for each in sums(connection, [Span(start_us, end_us)], ("subject",), only):
            found[each.key[0], each.field] += each.units
    return {each: units for each, units in found.items() if units}


def subjects(connection: Connection, source: str, start_us: int, end_us: int) -> list[str]:
    """Give who has used anything of a source in the hours that [start, end) touches, in µs since 1970."""
    table = usage_hours.c
    of_requests = (
        select(table.subject)
        .where(or_(*(table[name] != 0 for name in BUILT_IN)), table.source == source)
        .where(table.hour_us > start_us - HOUR_US, table.hour_us < end_us)
    )
    further = quantity_hours.c
    of_others = (
        select(further.subject)
        .where(further.units != 0, further.source == source)
        .where(further.hour_us > start_us - HOUR_US, further.hour_us < end_us)
    )
    return sorted(connection.execute(of_requests.union(of_others)).scalars())
