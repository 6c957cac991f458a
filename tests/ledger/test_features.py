"""The product view: as the events say, on either database."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from meter_mw.ledger.features import adoption, features, friction
from meter_mw.ledger.records import DAY_US, read
from meter_mw.ledger.sketches import ERROR
from meter_mw.ledger.spans import Span
from support.ledgers import HOUR_US, NOON_US, SOURCE, usage

if TYPE_CHECKING:
    from meter_mw.ledger.database import Database
    from meter_mw.sinks.sql import SqlSink

MIDNIGHT_US = NOON_US - 12 * HOUR_US
"""Of Thursday, 1 January 2026."""
SPAN = Span(MIDNIGHT_US + 5 * DAY_US, MIDNIGHT_US + 15 * DAY_US)


def _events() -> list[bytes]:
    dice = random.Random(11)
    return [
        usage(
            number,
            subject=f"s{dice.randrange(9)}",
            time_us=MIDNIGHT_US + dice.randrange(20 * DAY_US),
            route=dice.choice(("read", "read", "write", "export")),
            status=dice.choice((200, 200, 200, 404, 429, 500)),
            duration_us=int(dice.lognormvariate(13, 1)),
            response_bytes=dice.randrange(10_000),
            **dice.choice(({}, {}, {"limited_by": ["egress"]})),
        )
        for number in range(600)
    ]


EVENTS = _events()
OTHER = usage("other", source="urn:meter-mw:other", status=500, route="other", time_us=SPAN.start_us)


def facts(route: str | None = None, span: Span = SPAN) -> list[dict[str, object]]:
    """Give the answers of a span."""
    told = []
    for each in EVENTS:
        record, data = read(each), json.loads(each)["data"]
        if span.start_us <= record.time_us < span.end_us and route in (None, data["route"]):
            told.append({**data, "subject": record.row["subject"], "at": record.time_us})
    return told


def test_routes_by_use(sink: SqlSink, database: Database) -> None:
    """The most used first, with shares, percentiles, and who is new to it."""
    sink.send([*EVENTS, OTHER])
    found = features(database, SPAN, source=SOURCE)
    uses = Counter(str(each["route"]) for each in facts())
    assert [(each.route, each.answers) for each in found] == uses.most_common()
    for each in found:
        own = facts(each.route)
        statuses = Counter(int(str(one["status"])) for one in own)
        limited = sum("limited_by" in one for one in own)
        before = {
            one["subject"]
            for one in facts(each.route, Span(MIDNIGHT_US, SPAN.start_us))
            if one["status"] == 200
        }
        served = {one["subject"] for one in own if one["status"] == 200}
        assert each.share == len(own) / len(facts())
        assert each.subjects == len({one["subject"] for one in own})
        assert each.new_subjects == len(served - before)
        assert (each.errors, each.client_errors) == (statuses[500] / len(own), statuses[404] / len(own))
        assert each.refused == max(statuses[429], limited) / len(own)
        durations = sorted(int(str(one["duration_us"])) for one in own)
        for share, value in ((0.5, each.p50_us), (0.95, each.p95_us), (0.99, each.p99_us)):
            exact = durations[int(share * (len(durations) - 1))]
            assert value is not None
            assert abs(value - exact) <= ERROR * exact
        assert each.response_bytes_p99 is not None
        assert (each.request_bytes_p50, each.response_bytes_p99 > 5_000) == (0, True)


def test_adoption_by_week(sink: SqlSink, database: Database) -> None:
    """Weeks begin on Mondays; a subject is new in the first one in which it was served."""
    sink.send([*EVENTS, OTHER])
    span = Span(MIDNIGHT_US, MIDNIGHT_US + 20 * DAY_US)
    weeks: defaultdict[tuple[date, str], set[object]] = defaultdict(set)
    first: dict[tuple[str, object], date] = {}
    for each in sorted(facts(span=span), key=lambda each: int(str(each["at"]))):
        day = datetime.fromtimestamp(int(str(each["at"])) // 1_000_000, UTC).date()
        monday = day - timedelta(days=day.weekday())
        if each["status"] == 200:
            weeks[monday, str(each["route"])].add(each["subject"])
            first.setdefault((str(each["route"]), each["subject"]), monday)
    wanted = [
        (week, route, len(who), sum(first[route, each] == week for each in who))
        for (week, route), who in sorted(weeks.items())
    ]
    assert adoption(database, span, source=SOURCE) == wanted
    assert all(start.weekday() == 0 for start, *_ in wanted)
    assert sum(new for *_, new in wanted) == len(first)


def test_friction_ranks_what_is_met_most(sink: SqlSink, database: Database) -> None:
    """Refusals, errors and slowness of each route, and who met them."""
    sink.send([*EVENTS, OTHER, usage("good", route="good", status=200, time_us=SPAN.start_us)])
    found = friction(database, SPAN, slow_us=500_000, source=SOURCE)
    assert [each.route for each in found] == [
        each.route for each in sorted(found, key=lambda each: -each.score)
    ]
    assert {each.route for each in found} == {"read", "write", "export"}
    for each in found:
        own = facts(each.route)
        statuses = Counter(int(str(one["status"])) for one in own)
        limited = sum("limited_by" in one for one in own)
        met = {one["subject"] for one in own if one["status"] != 200 or "limited_by" in one}
        assert (each.client_errors, each.server_errors) == (statuses[404], statuses[500])
        assert (each.refused, each.subjects) == (max(statuses[429], limited), len(met))
        slow = [int(str(one["duration_us"])) for one in own]
        assert sum(one >= 530_000 for one in slow) <= each.slow <= sum(one >= 470_000 for one in slow)
        total = each.refused + each.client_errors + each.server_errors + each.slow
        assert each.score == total / (len(facts()) + 1)


def test_nothing_is_answered(sink: SqlSink, database: Database) -> None:
    """Where there is nothing there are no rows."""
    sink.send([OTHER])
    assert features(database, SPAN, source=SOURCE) == []
    assert adoption(database, SPAN, source=SOURCE) == []
    assert friction(database, SPAN, source=SOURCE) == []
