"""Reports give what the events say: for any span, zone and step, on either database."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from meter_mw.ledger.reports import SAMPLE_US, Step, Used, samples, steps, usage, usage_by
from meter_mw.ledger.spans import Span, period_named
from support.ledgers import FIELDS, HOUR_US, NOON_US, SOURCE, mixture
from support.ledgers import usage as event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.ledger.database import Database
    from meter_mw.sinks.sql import SqlSink

MINUTE_US = 60_000_000
ZONES = ("UTC", "Europe/Paris", "Asia/Kolkata", "America/St_Johns")
EVENTS = [
    *mixture(seed=21, count=400),
    *(event(f"far-{day}", time_us=NOON_US + day * 24 * HOUR_US, plan="pro", tokens=day) for day in range(9)),
    event("void", kind="meter_mw.adjustment.v1", requests=-1, amends="event-3", plan="pro"),
    event("threshold", kind="meter_mw.threshold.v1", cap=100, threshold=80),
    event("elsewhere", source="urn:meter-mw:other", account="group", tokens=7),
]


def summed(
    key: Callable[[dict[str, object], int], tuple[object, ...]], span: Span
) -> dict[tuple[object, ...], int]:
    """Add up what the events say of a span, by a key of each and its field."""
    found: Counter[tuple[object, ...]] = Counter()
    for each in map(json.loads, EVENTS):
        moment = round(datetime.fromisoformat(each["time"]).timestamp() * 1_000_000)
        if span.start_us <= moment < span.end_us and "threshold" not in each["type"]:
            for field in FIELDS:
                found[*key(each, moment), field] += each["data"].get(field, 0)
    return {key: units for key, units in found.items() if units}


def spans() -> list[Span]:
    """Some spans: within an hour, around days, of many days, and whole ones."""
    dice = random.Random(5)
    bounds = [(-30, 30), (0, 60), (7, 9), (-720, 720), (-720, 12_000), (-9_000, 20_000), (5, 5)]
    bounds += [sorted(dice.sample(range(-800, 12_000), 2)) for _ in range(8)]  # type: ignore[misc]
    return [Span(NOON_US + start * MINUTE_US, NOON_US + end * MINUTE_US) for start, end in bounds]


def test_usage_is_exact_for_any_span(sink: SqlSink, database: Database) -> None:
    """What a subject used is what its events say, by field and plan; copies count nothing."""
    sink.send(EVENTS)
    sink.send(EVENTS[::3])
    for span in spans():
        facts = summed(lambda each, _: (each["subject"], each["data"].get("plan", "")), span)  # type: ignore[attr-defined]
        for subject in ("acme", "globex", "nobody"):
            expected = sorted(
                Used(str(field), units, str(plan))
                for (who, plan, field), units in facts.items()
                if who == subject
            )
            assert sorted(usage(database, subject=subject, period=span)) == expected, (subject, span)
    month = period_named("2026-01", "Europe/Paris")
    own = usage(database, subject="acme", period=month, source="urn:meter-mw:other")
    assert own == [Used("requests", 1, ""), Used("tokens", 7, "")]


@pytest.mark.parametrize("by", [(), ("subject",), ("route", "subject"), ("source", "account", "plan")])
def test_usage_by_anything(sink: SqlSink, database: Database, by: Sequence[str]) -> None:
    """Whatever is told apart adds up to what the events say, in the order of the columns."""
    sink.send(EVENTS)

    def key(each: dict[str, object], _: int) -> tuple[object, ...]:
        data = each["data"]
        return tuple(each[name] if name in each else data.get(name, "") for name in by)  # type: ignore[attr-defined]

    for span in spans():
        rows = usage_by(database, by, span)
        assert {(*(getattr(row, name) for name in by), row.field): row.units for row in rows} == summed(
            key, span
        )
        assert rows == sorted(rows, key=lambda row: tuple("" if each is None else each for each in row))
        assert all(
            getattr(row, name) is None for row in rows for name in {"start", "subject", "plan"} - {*by}
        )


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("step", Step)
def test_days_and_hours_of_a_zone(sink: SqlSink, database: Database, zone: str, step: Step) -> None:
    """A day is the zone's, where it is half an hour off as well; the first and last may be parts of one."""
    sink.send(EVENTS)
    clock = "%Y-%m-%d" if step is Step.DAY else "%Y-%m-%d %H"

    def local(moment_us: int) -> str:
        return datetime.fromtimestamp(moment_us // 1_000_000, ZoneInfo(zone)).strftime(clock)

    for span in spans()[:7]:
        for subjects in (None, ("acme", "initech")):
            rows = usage_by(database, ("subject",), span, step=step, zone=zone, subjects=subjects)
            facts = summed(lambda each, moment: (local(moment), each["subject"]), span)
            wanted = {key: units for key, units in facts.items() if not subjects or key[1] in subjects}
            told = {
                (local(round(row.start.timestamp() * 1_000_000)), row.subject, row.field): row.units
                for row in rows
                if row.start
            }
            assert told == wanted, (span, subjects)


def test_what_there_is_none_of(sink: SqlSink, database: Database) -> None:
    """An empty ledger has no rows, and neither has an empty list of subjects."""
    everything = Span(0, NOON_US * 2)
    assert usage_by(database, ("subject",), everything) == []
    sink.send(EVENTS)
    assert usage_by(database, ("subject",), everything, subjects=()) == []
    with pytest.raises(
        ValueError, match="found colour; expected some of subject, source, account, plan, route"
    ):
        usage_by(database, ("colour",), everything)


@pytest.mark.parametrize("field", ["response_bytes", "tokens"])
def test_samples_are_five_minutes_each(sink: SqlSink, database: Database, field: str) -> None:
    """Each is the sum of its five minutes, as far as they lie in the period."""
    sink.send(EVENTS)
    for span in spans():
        facts = summed(lambda each, moment: (each["subject"], moment // SAMPLE_US * SAMPLE_US), span)
        expected = sorted(
            (start, units) for (who, start, name), units in facts.items() if (who, name) == ("acme", field)
        )
        assert samples(database, subject="acme", field=field, period=span) == expected
    month = period_named("2026-01")
    assert samples(database, subject="acme", field=field, period=month, source=SOURCE + "x") == []


def test_hours_where_a_clock_changes() -> None:
    """A day of 25 hours has 25, each once."""
    day = period_named("2026-10-25", "Europe/Paris")
    cuts = list(steps(day, Step.HOUR, "Europe/Paris"))
    assert len(cuts) == 25
    assert cuts[0].start == datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert list(steps(day, Step.DAY, "Europe/Paris")) == [day]
