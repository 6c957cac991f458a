"""What the retention is over of goes, bit by bit; what is counted stays counted, and once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from meter_mw.ledger import retention
from meter_mw.ledger.insight import outcomes, sketches
from meter_mw.ledger.records import DAY_US, read
from meter_mw.ledger.reports import samples, usage_by
from meter_mw.ledger.retention import Purged, Purger, Retention, advance, purge
from meter_mw.ledger.spans import Span
from meter_mw.ledger.writing import write
from meter_mw.sinks import Delivered, Duplicate, Permanent
from meter_mw.sinks.sql import SqlSink
from support.ledgers import HOUR_US, NOON_US, SOURCE, Ledger, rolled_up, usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.ledger.database import Database

MIDNIGHT_US = NOON_US - 12 * HOUR_US
DAYS = 10
EVENTS = [
    usage(f"{day}-{hour}", time_us=MIDNIGHT_US + day * DAY_US + hour * HOUR_US, tokens=2, status=200)
    for day in range(DAYS)
    for hour in range(0, 24, 6)
]
NOW_US = MIDNIGHT_US + DAYS * DAY_US
KEPT = Retention(events=2 * DAY_US, hours=4 * DAY_US, days=8 * DAY_US)


def purged(database: Database, retention: Retention, now_us: int = NOW_US, most: int = 7) -> int:
    """Purge until nothing is left to purge; give in how many steps."""
    purger = Purger(retention, most=most)
    steps = 0
    while purger.is_due(now_us):
        with database.connected() as connection:
            purger.purge(connection, now_us)
        steps += 1
    return steps


def counts(ledger: Ledger, *tables: str) -> list[object]:
    return [ledger.rows(f"SELECT count(*) FROM meter_{each}")[0][0] for each in tables]


def test_each_grain_goes_in_its_time(ledger: Ledger, sink: SqlSink, database: Database) -> None:
    """Events first, then hours, then days; in batches, and the newest event is the clock."""
    sink.send(EVENTS)
    assert purged(database, KEPT) > 3
    # The newest event is of 18:00: 2 days before it are 8 events and itself.
    assert counts(ledger, "events", "quantities") == [9, 9]
    assert counts(ledger, "usage_hours", "quantity_hours") == [17, 17]
    assert counts(ledger, "sketch_hours") == [2 * 17]
    assert counts(ledger, "usage_days", "quantity_days") == [8, 8]


def test_roll_ups_tell_what_was_purged(ledger: Ledger, sink: SqlSink, database: Database) -> None:
    """Usage of whole days is as it was, though its events are gone."""
    sink.send(EVENTS)
    before = rolled_up(ledger)
    everything = Span(MIDNIGHT_US, NOW_US)
    rows = usage_by(database, ("subject",), everything)
    purged(database, Retention(events=DAY_US))
    assert rolled_up(ledger) == before
    assert usage_by(database, ("subject",), everything) == rows
    assert counts(ledger, "events") == [5]


def test_what_comes_again_is_not_counted_again(ledger: Ledger, sink: SqlSink, database: Database) -> None:
    """An event whose like were purged is refused with the reason; a younger one is known, or new."""
    sink.send(EVENTS)
    purged(database, KEPT)
    before = ledger.rows("SELECT * FROM meter_usage_days ORDER BY day_us")
    late, young = usage("late", time_us=MIDNIGHT_US), usage("young", time_us=NOW_US)
    first, known, stale, new = sink.send([EVENTS[0], EVENTS[-1], late, young])
    assert (
        first
        == stale
        == Permanent("older than the events that the ledger keeps: nobody can say whether it was counted")
    )
    assert (known, new) == (Duplicate(), Delivered())
    *same, added = ledger.rows("SELECT * FROM meter_usage_days ORDER BY day_us")
    assert same == before
    assert added[0] == NOW_US


def test_reports_say_what_they_have_no_more(sink: SqlSink, database: Database) -> None:
    """Nothing is told of a time whose events or roll-ups are gone; it is not 0."""
    sink.send(EVENTS)
    purged(database, KEPT)
    kept = "expected 2026-01-06T18:00Z or later, as the ledger keeps no older hours"
    with pytest.raises(Purged, match=f"found 2026-01-01T01:00Z; {kept}"):
        usage_by(database, (), Span(MIDNIGHT_US + HOUR_US, MIDNIGHT_US + 2 * HOUR_US))
    with pytest.raises(Purged, match="keeps no older events"):
        usage_by(database, (), Span(MIDNIGHT_US + 1, MIDNIGHT_US + 2))
    with pytest.raises(Purged, match="keeps no older days"):
        usage_by(database, (), Span(MIDNIGHT_US, NOW_US))
    with pytest.raises(Purged, match="keeps no older events"):
        samples(database, subject="acme", field="requests", period=Span(MIDNIGHT_US, NOW_US))
    for asked in (
        outcomes(database, (), Span(NOW_US - 3 * DAY_US, NOW_US)),
        usage_by(database, (), Span(NOW_US - DAY_US, NOW_US)),
    ):
        assert asked
    with pytest.raises(Purged, match="keeps no older days"):
        sketches(database, Span(MIDNIGHT_US, NOW_US))


def test_a_clock_that_jumps_ahead_purges_nothing(ledger: Ledger, sink: SqlSink, database: Database) -> None:
    """A year ahead of the newest event is no reason to forget it; nor is a clock that went back to 1970."""
    sink.send(EVENTS)
    purged(database, Retention(events=DAYS * DAY_US), NOW_US + 365 * DAY_US)
    purged(database, Retention(events=DAY_US), 0)
    assert counts(ledger, "events") == [len(EVENTS)]


def test_a_writer_in_its_transaction_is_waited_for(ledger: Ledger, database: Database) -> None:
    """What a writer inserts counts, or is stale: nothing is moved under its feet."""
    writer = SqlSink(ledger.address, SOURCE, timeout=20)
    writer.send(EVENTS)
    advanced = threading.Event()

    def forget() -> None:
        with database.connected() as connection:
            advance(connection, KEPT, NOW_US)
        advanced.set()

    with writer.database.connected() as connection:
        write(connection, [read(usage("meanwhile", time_us=MIDNIGHT_US))])
        thread = threading.Thread(target=forget)
        thread.start()
        assert not advanced.wait(0.2)
        connection.commit()
    thread.join(20)
    assert advanced.is_set()
    assert isinstance(writer.send([usage("after", time_us=MIDNIGHT_US)])[0], Permanent)
    with database.connected() as connection:
        assert purge(connection, 1_000)
    writer.close()


def test_a_sink_purges_as_its_policy_says(ledger: Ledger) -> None:
    """It does so by itself, a bit after each batch."""
    sink = SqlSink(ledger.address, SOURCE, retention=KEPT)
    sink.send(EVENTS)
    outcomes: Sequence[object] = sink.send([usage("last", time_us=NOW_US, tokens=1)])
    assert list(outcomes) == [Delivered()]
    sink.close()
    assert counts(ledger, "events") == [9 + 1]


def test_what_is_over_but_not_deleted_yet_is_known(sink: SqlSink, database: Database) -> None:
    """A copy of an event that is still there is a duplicate, however old it is."""
    sink.send(EVENTS)
    with database.connected() as connection:
        advance(connection, KEPT, NOW_US)
    known, new = sink.send([EVENTS[0], usage("late", time_us=MIDNIGHT_US)])
    assert known == Duplicate()
    assert isinstance(new, Permanent)


def test_a_purge_that_fails_holds_nothing_up(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Events go on arriving; the log says once why nothing was purged."""
    sink = SqlSink(ledger.address, SOURCE, retention=KEPT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retention, "purge", _broken)
        for event in EVENTS[:3]:
            assert list(sink.send([event])) == [Delivered()]
    assert caplog.text.count("nothing was purged: OSError: the disk is read-only") == 1
    sink.close()


def _broken(*arguments: object) -> int:
    raise OSError("the disk is read-only")


def test_roll_ups_are_not_kept_for_less_long_than_events() -> None:
    """Purging roll-ups first would leave events that no roll-up counts."""
    with pytest.raises(ValueError, match="keeps hours for less long than events"):
        Retention(hours=DAY_US)
    with pytest.raises(ValueError, match="keeps days for less long than hours"):
        Retention(events=DAY_US, hours=3 * DAY_US, days=2 * DAY_US)
