"""What events add to the roll-ups, table by table. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.ledger.records import BUILT_IN, DAY_US, HOUR_US
from meter_mw.ledger.sketches import bucket
from meter_mw.ledger.tables import (
    CLASSES,
    SUMS,
    limited_hours,
    quantity_days,
    quantity_hours,
    sketch_days,
    sketch_hours,
    usage_days,
    usage_hours,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Table

    from meter_mw.ledger.records import Record

Key: TypeAlias = tuple[int | str, ...]
Row: TypeAlias = tuple[int | str, ...]

MEASURES = ("duration_us", "request_bytes", "response_bytes")
"""What sketches are kept of."""

_PLACES = {name: place for place, name in enumerate(SUMS)}
_EVENTS, _ANSWERS, _LIMITED, _DURATION = map(
    _PLACES.__getitem__, ("events", "answers", "limited", "duration_us")
)
_CLASSES = tuple(map(_PLACES.__getitem__, CLASSES))
_TOO_MANY = _PLACES["status_429"]
_FIRST = _PLACES[BUILT_IN[0]]


def rolled_up(records: Iterable[Record]) -> Mapping[Table, Sequence[Row]]:
    """Give the rows that records add, in the order of their keys and columns."""
    usage: dict[Key, list[int]] = {}
    further: Counter[Key] = Counter()
    limits: Counter[Key] = Counter()
    sketches: Counter[Key] = Counter()
    for record in records:
        if not record.bills:
            continue
        key = _key(record)
        sums = usage.get(key)
        if sums is None:
            sums = usage[key] = [0] * len(SUMS)
        _add(sums, record)
        for _, field, units in record.further():
            further[*key, field] += units
        for limit in record.limited_by:
            limits[*key, limit] += 1
        if record.answers:
            sketches.update(_measured(record, key))
    return {
        usage_hours: _rows(usage),
        quantity_hours: _counted(further),
        limited_hours: _counted(limits),
        sketch_hours: _counted(sketches),
        usage_days: _rows(_by_day(usage)),
        quantity_days: _counted(_counts_by_day(further)),
        sketch_days: _counted(_counts_by_day(sketches)),
    }


def _key(record: Record) -> Key:
    """Give the hour and the series of a record."""
    row = record.row
    named = (row["account"] or "", row["plan"] or "", row["route"] or "")
    return (record.time_us // HOUR_US * HOUR_US, str(row["subject"]), str(row["source"]), *map(str, named))


def _add(sums: list[int], record: Record) -> None:
    row = record.row
    sums[_EVENTS] += 1
    for place, name in enumerate(BUILT_IN, _FIRST):
        sums[place] += _int(row[name])
    sums[_LIMITED] += bool(record.limited_by)
    if record.answers:
        status = _int(row["status"])
        sums[_ANSWERS] += 1
        sums[_DURATION] += _int(row["duration_us"])
        if 100 <= status < 600:
            sums[_CLASSES[status // 100 - 1]] += 1
        sums[_TOO_MANY] += status == 429


def _measured(record: Record, key: Key) -> Iterable[Key]:
    """Give the bucket of each measure."""
    hour_us, _, source, *_, route = key
    for measure in MEASURES:
        value = record.row[measure]
        if isinstance(value, int) and value >= 0:
            yield hour_us, source, route, measure, bucket(value)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _by_day(hours: Mapping[Key, list[int]]) -> dict[Key, list[int]]:
    days: dict[Key, list[int]] = {}
    for (hour_us, *series), sums in hours.items():
        key = (_day(hour_us), *series)
        found = days.get(key)
        days[key] = sums if found is None else [a + b for a, b in zip(found, sums, strict=True)]
    return days


def _counts_by_day(hours: Mapping[Key, int]) -> Counter[Key]:
    days: Counter[Key] = Counter()
    for (hour_us, *rest), units in hours.items():
        days[_day(hour_us), *rest] += units
    return days


def _day(hour_us: int | str) -> int:
    return int(hour_us) // DAY_US * DAY_US


def _rows(sums: Mapping[Key, list[int]]) -> list[Row]:
    return sorted((*key, *each) for key, each in sums.items())


def _counted(counts: Mapping[Key, int]) -> list[Row]:
    return sorted((*key, units) for key, units in counts.items())
