"""What became of requests, by whom and where: as the events say, on either database."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from meter_mw.ledger.insight import limited_by, outcomes, reach, sketches
from meter_mw.ledger.records import DAY_US, read
from meter_mw.ledger.spans import Span
from support.ledgers import HOUR_US, NOON_US, SOURCE, usage

if TYPE_CHECKING:
    from meter_mw.ledger.database import Database
    from meter_mw.sinks.sql import SqlSink

MIDNIGHT_US = NOON_US - 12 * HOUR_US
SPAN = Span(MIDNIGHT_US, MIDNIGHT_US + 3 * DAY_US)
STATUSES = (101, 200, 200, 200, 201, 304, 404, 429, 499, 500, 503)


def _events() -> list[bytes]:
    dice = random.Random(9)
    return [
        usage(
            number,
            subject=dice.choice(("acme", "globex", "initech")),
            time_us=MIDNIGHT_US + dice.randrange(4 * DAY_US),
            route=dice.choice(("read", "write")),
            status=dice.choice(STATUSES),
            duration_us=int(dice.lognormvariate(8, 1)),
            request_bytes=dice.choice((0, 0, 512)),
            response_bytes=dice.randrange(10_000),
            **dice.choice(({}, {}, {"limited_by": ["egress"]}, {"limited_by": ["egress", "slots"]})),
        )
        for number in range(500)
    ]


EVENTS = _events()
NO_ANSWERS = [
    usage("part", exchange="event-1", part=1, status=200, duration_us=5, time_us=MIDNIGHT_US),
    usage(
        "void", kind="meter_mw.adjustment.v1", requests=-1, amends="event-3", status=200, time_us=MIDNIGHT_US
    ),
    usage("amends", requests=0, tokens=2, amends="event-3", time_us=MIDNIGHT_US),
    usage("threshold", kind="meter_mw.threshold.v1", status=500, limited_by=["x"], time_us=MIDNIGHT_US),
]


def facts(span: Span = SPAN) -> list[dict[str, object]]:
    """Give the answers of a span."""
    found = []
    for number, each in enumerate(map(json.loads, EVENTS)):
        moment = _moments[number]
        if span.start_us <= moment < span.end_us:
            found.append({"subject": each["subject"], "at": moment, **each["data"]})
    return found


def _moment(payload: bytes) -> int:
    return read(payload).time_us


_moments = [_moment(each) for each in EVENTS]


@pytest.mark.parametrize(
    "span",
    [SPAN, Span(MIDNIGHT_US + 5 * HOUR_US, MIDNIGHT_US + 30 * HOUR_US), Span(NOON_US, NOON_US + HOUR_US)],
)
@pytest.mark.parametrize("subjects", [None, ("acme", "globex")])
def test_outcomes_are_those_of_the_events(
    sink: SqlSink, database: Database, span: Span, subjects: tuple[str, ...] | None
) -> None:
    """Statuses, limits and durations add up by whatever is told apart; a long exchange is one answer."""
    sink.send([*EVENTS, *NO_ANSWERS])
    sink.send(EVENTS[:50])
    wanted: defaultdict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for each in facts(span):
        if subjects is None or each["subject"] in subjects:
            told = wanted[each["subject"], each["route"]]
            status = int(str(each["status"]))
            told.update(answers=1, duration_us=int(str(each["duration_us"])), limited="limited_by" in each)
            told.update({f"{status // 100}xx": 1, "429": status == 429})
    found = outcomes(database, ("subject", "route"), span, subjects=subjects)
    assert [tuple(each.key.values()) for each in found] == sorted(wanted)
    for each in found:
        sums = wanted[tuple(each.key.values())]
        told = (each.answers, each.successes, each.redirects, each.client_errors, each.server_errors)
        assert told == tuple(sums[name] for name in ("answers", "2xx", "3xx", "4xx", "5xx"))
        assert (each.too_many, each.limited, each.duration_us) == (
            *(sums["429"], sums["limited"]),
            sums["duration_us"],
        )
        assert each.share(each.answers) == 1.0


def test_nothing_became_of_nothing(sink: SqlSink, database: Database) -> None:
    """Where there are no answers there is no row, and no share of them."""
    sink.send(NO_ANSWERS)
    assert outcomes(database, (), SPAN) == []
    assert sketches(database, SPAN) == []
    assert reach(database, SPAN) == []
    for asked in (outcomes, limited_by):
        with pytest.raises(ValueError, match="found hour; expected some of subject"):
            asked(database, ("hour",), SPAN)


def test_limits_by_name(sink: SqlSink, database: Database) -> None:
    """An event that two limits stopped counts for both."""
    sink.send([*EVENTS, *NO_ANSWERS])
    wanted = Counter((each["route"], name) for each in facts() for name in each.get("limited_by", []))  # type: ignore[attr-defined]
    assert limited_by(database, ("route",), SPAN, source=SOURCE) == dict(sorted(wanted.items()))
    assert limited_by(database, ("route",), SPAN, source="urn:meter-mw:other") == {}


@pytest.mark.parametrize("span", [SPAN, Span(MIDNIGHT_US + 5 * HOUR_US, MIDNIGHT_US + 55 * HOUR_US)])
def test_percentiles_of_a_route(sink: SqlSink, database: Database, span: Span) -> None:
    """They are within 2 % of those of the events, whichever batches brought them, in days and hours."""
    for start in range(0, len(EVENTS), 90):
        sink.send([*EVENTS[start : start + 90], *NO_ANSWERS])
    found = sketches(database, span)
    assert [(each.route, each.measure) for each in found] == [
        (route, measure)
        for route in ("read", "write")
        for measure in ("duration_us", "request_bytes", "response_bytes")
    ]
    for sketch in found:
        exact = sorted(
            int(str(each[sketch.measure])) for each in facts(span) if each["route"] == sketch.route
        )
        for share in (0.0, 0.5, 0.9, 0.99, 1.0):
            told = sketch.quantile(share)
            value = exact[int(share * (len(exact) - 1))]
            assert told is not None
            assert abs(told - value) <= 0.02 * value + 1e-6


def test_distinct_subjects_of_a_day(sink: SqlSink, database: Database) -> None:
    """Each counts once a day and route, however many requests they made."""
    sink.send([*EVENTS, *NO_ANSWERS])
    wanted: defaultdict[tuple[int, object], set[object]] = defaultdict(set)
    for each in facts():
        wanted[int(str(each["at"])) // DAY_US * DAY_US, each["route"]].add(each["subject"])
    assert reach(database, SPAN) == sorted((*key, len(who)) for key, who in wanted.items())
