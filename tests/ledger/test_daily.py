"""Days, first days, keys and hours of subjects: as the events say, on either database."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from meter_mw.ledger.daily import daily, extent, firsts, hours_of_day, kept_since, keys_of, recorded
from meter_mw.ledger.records import DAY_US, read
from meter_mw.ledger.retention import Purged, Retention, advance, purge
from meter_mw.ledger.spans import Span
from support.ledgers import HOUR_US, NOON_US, SOURCE, usage

if TYPE_CHECKING:
    from meter_mw.ledger.database import Database
    from meter_mw.sinks.sql import SqlSink

MIDNIGHT_US = NOON_US - 12 * HOUR_US
SPAN = Span(MIDNIGHT_US, MIDNIGHT_US + 3 * DAY_US)


def _events() -> list[bytes]:
    dice = random.Random(5)
    return [
        usage(
            number,
            subject=dice.choice(("acme", "globex")),
            time_us=MIDNIGHT_US + dice.randrange(4 * DAY_US),
            route=dice.choice(("read", "write")),
            status=dice.choice((200, 200, 304, 404, 429, 500)),
            **dice.choice(({}, {"limited_by": ["egress"]}, {"key": "k1_a"}, {"key": "k1_b"})),
        )
        for number in range(300)
    ]


EVENTS = _events()
OTHER = usage("other", source="urn:meter-mw:other", status=200, time_us=MIDNIGHT_US - DAY_US)


def facts() -> list[dict[str, object]]:
    """Give the events of the span, with the time of each."""
    told = ({**json.loads(each)["data"], **_who(each)} for each in EVENTS)
    return [each for each in told if SPAN.start_us <= int(str(each["at"])) < SPAN.end_us]


def _who(payload: bytes) -> dict[str, object]:
    record = read(payload)
    return {"subject": record.row["subject"], "at": record.time_us}


def test_days_are_those_of_the_events(sink: SqlSink, database: Database) -> None:
    """By subject and route; another service is left out."""
    sink.send([*EVENTS, OTHER])
    wanted: defaultdict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for each in facts():
        day_us = int(str(each["at"])) // DAY_US * DAY_US
        status = int(str(each["status"]))
        told = wanted[day_us, (each["subject"], each["route"])]
        told.update(answers=1, limited="limited_by" in each, too_many=status == 429)
        told[f"{status // 100}xx"] += 1
    found = daily(database, ("subject", "route"), SPAN, source=SOURCE)
    assert [(row.day_us, row.key) for row in found] == sorted(wanted)
    names = ("answers", "2xx", "4xx", "5xx", "too_many", "limited")
    for row in found:
        assert row[2:] == tuple(wanted[row.day_us, row.key][name] for name in names)
    some = daily(database, (), SPAN, subjects=["acme"], source=SOURCE)
    assert sum(row.answers for row in some) == sum(each["subject"] == "acme" for each in facts())


def test_first_days_of_routes(sink: SqlSink, database: Database) -> None:
    """Only an answer of 2xx counts; a later one changes nothing."""
    sink.send(
        [
            usage(1, route="read", status=404, time_us=MIDNIGHT_US),
            usage(2, route="read", status=201, time_us=MIDNIGHT_US + DAY_US),
            usage(3, route="read", status=200, time_us=MIDNIGHT_US + 2 * DAY_US),
            OTHER,
        ]
    )
    assert firsts(database, source=SOURCE) == [("acme", "read", MIDNIGHT_US + DAY_US)]
    assert extent(database) == (MIDNIGHT_US - DAY_US, MIDNIGHT_US + 2 * DAY_US)
    assert extent(database, source=SOURCE) == (MIDNIGHT_US, MIDNIGHT_US + 2 * DAY_US)
    assert extent(database, source="urn:meter-mw:none") is None


def test_keys_and_hours_of_a_subject(sink: SqlSink, database: Database) -> None:
    """Answers of one subject; a request without a key counts under an empty one."""
    sink.send([*EVENTS, OTHER])
    own = [each for each in facts() if each["subject"] == "acme"]
    assert keys_of(database, "acme", SPAN, source=SOURCE) == dict(
        sorted(Counter(str(each.get("key", "")) for each in own).items())
    )
    assert hours_of_day(database, "acme", SPAN, source=SOURCE) == dict(
        sorted(Counter(int(str(each["at"])) % DAY_US // HOUR_US for each in own).items())
    )


def test_what_is_kept_no_longer_is_said(sink: SqlSink, database: Database) -> None:
    """Keys come from events: where those are purged, nobody can tell."""
    sink.send(EVENTS)
    assert kept_since(database, "events") is None
    with database.connected() as connection:
        advance(connection, Retention(events=DAY_US), MIDNIGHT_US + 3 * DAY_US)
        purge(connection, 10_000)
    assert kept_since(database, "events") == MIDNIGHT_US + 2 * DAY_US
    with pytest.raises(Purged):
        keys_of(database, "acme", SPAN)
    assert daily(database, ("subject",), SPAN)


def test_which_ids_are_recorded(sink: SqlSink, database: Database) -> None:
    """Any number of ids may be asked for."""
    sink.send(EVENTS[:2])
    asked = {"event-0", "event-1", *(f"no-{number}" for number in range(1_200))}
    assert recorded(database, asked) == {"event-0", "event-1"}
