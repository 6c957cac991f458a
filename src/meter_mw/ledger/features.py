"""The product view: which routes are used, by how many, how well they answer, and where there is friction.

Hours and days of UTC are counted whole; percentiles are of the merged sketches, to within 2 %.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.ledger.daily import daily, firsts
from meter_mw.ledger.insight import outcomes, sketches
from meter_mw.ledger.records import DAY_US
from meter_mw.ledger.sketches import value_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.ledger.database import Database
    from meter_mw.ledger.insight import Outcomes, Sketch
    from meter_mw.ledger.spans import Span

SLOW_US = 1_000_000
"""An answer that takes a second or longer is slow, where nothing else is said."""

_DURATION, _IN, _OUT = "duration_us", "request_bytes", "response_bytes"


@dataclass(frozen=True, slots=True)
class Feature:
    """How one route was used in a period; `share` is its part of all answers.

    `errors` is the part of its answers with 5xx, `client_errors` with 4xx but 429, `refused` that with 429 or
    stopped by a limit. Durations are in µs, sizes in bytes: medians, and what so many per cent do not exceed.
    """

    route: str
    answers: int
    share: float
    subjects: int
    new_subjects: int
    errors: float
    client_errors: float
    refused: float
    p50_us: float | None
    p95_us: float | None
    p99_us: float | None
    request_bytes_p50: float | None
    request_bytes_p99: float | None
    response_bytes_p50: float | None
    response_bytes_p99: float | None


class Adoption(NamedTuple):
    """How many subjects a route served in the week from a Monday on, and how many of them first then."""

    start: date
    route: str
    subjects: int
    new_subjects: int


@dataclass(frozen=True, slots=True)
class Friction:
    """How many answers of a route were no good, and how many subjects met any that were not just slow.

    `refused` are those of 429 or stopped by a limit, which `client_errors` leave out; `slow` ones may be
    errors too. `score` is the part that they all are of the answers of every route: what is met most often.
    """

    route: str
    answers: int
    refused: int
    client_errors: int
    server_errors: int
    slow: int
    subjects: int
    score: float


def features(database: Database, period: Span, *, source: str | None = None) -> list[Feature]:
    """Give the routes that were used in a period, the most used first. Raises Purged."""
    found = outcomes(database, ("route",), period, source=source)
    measured = {(each.route, each.measure): each for each in sketches(database, period, source=source)}
    by_subject = outcomes(database, ("route", "subject"), period, source=source)
    reach = Counter(each.key["route"] for each in by_subject if each.answers)
    new = Counter(each.route for each in firsts(database, source=source) if each.day_us in _days(period))
    everything = sum(each.answers for each in found)
    rows = [_feature(each, everything, measured, reach, new) for each in found]
    return sorted(rows, key=lambda row: (-row.answers, row.route))


def adoption(database: Database, period: Span, *, source: str | None = None) -> list[Adoption]:
    """Give the subjects of each route by week, as far as its days of UTC begin in a period. Raises Purged.

    A subject is new to a route in the first week, of all that the ledger keeps, in which it was served there.
    """
    served: dict[tuple[date, str], set[str]] = defaultdict(set)
    for row in daily(database, ("route", "subject"), period, source=source):
        route, subject = row.key
        if row.successes:
            served[_monday(row.day_us), route].add(subject)
    known = {(each.route, each.subject): _monday(each.day_us) for each in firsts(database, source=source)}
    return [
        Adoption(week, route, len(subjects), sum(known.get((route, each)) == week for each in subjects))
        for (week, route), subjects in sorted(served.items())
    ]


def friction(
    database: Database, period: Span, *, slow_us: int = SLOW_US, source: str | None = None
) -> list[Friction]:
    """Give where customers met refusals, errors and slowness, the most often first. Raises Purged."""
    found = outcomes(database, ("route",), period, source=source)
    by_subject = outcomes(database, ("route", "subject"), period, source=source)
    met: Counter[str] = Counter()
    for each in by_subject:
        if each.client_errors or each.server_errors or each.limited:
            met[each.key["route"]] += 1
    durations = {
        each.route: each for each in sketches(database, period, measures=(_DURATION,), source=source)
    }
    everything = sum(each.answers for each in found)
    rows = [_friction(each, durations, slow_us, met[each.key["route"]], everything) for each in found]
    return sorted((row for row in rows if row.score), key=lambda row: (-row.score, row.route))


def _feature(
    found: Outcomes,
    everything: int,
    measured: Mapping[tuple[str, str], Sketch],
    reach: Mapping[str, int],
    new: Mapping[str, int],
) -> Feature:
    route = found.key["route"]

    def quantile(measure: str, share: float) -> float | None:
        sketch = measured.get((route, measure))
        return None if sketch is None else sketch.quantile(share)

    return Feature(
        route,
        found.answers,
        found.answers / everything if everything else 0.0,
        reach.get(route, 0),
        new.get(route, 0),
        found.share(found.server_errors),
        found.share(found.client_errors - found.too_many),
        found.share(_refused(found)),
        *(quantile(_DURATION, share) for share in (0.5, 0.95, 0.99)),
        *(quantile(measure, share) for measure in (_IN, _OUT) for share in (0.5, 0.99)),
    )


def _friction(
    found: Outcomes, durations: Mapping[str, Sketch], slow_us: int, subjects: int, everything: int
) -> Friction:
    route = found.key["route"]
    counts = durations[route].counts if route in durations else {}
    slow = sum(count for number, count in counts.items() if value_of(number) >= slow_us)
    refused, wrong = _refused(found), found.client_errors - found.too_many
    met = refused + wrong + found.server_errors + slow
    score = met / everything if everything else 0.0
    return Friction(route, found.answers, refused, wrong, found.server_errors, slow, subjects, score)


def _refused(found: Outcomes) -> int:
    return max(found.too_many, found.limited)


def _days(period: Span) -> range:
    """Give the moments, in whole µs, at which a day of UTC may begin in a period."""
    return range(-(-period.start_us // DAY_US) * DAY_US, period.end_us, DAY_US)


def _monday(day_us: int) -> date:
    day = datetime.fromtimestamp(day_us // 1_000_000, UTC).date()
    return day - timedelta(days=day.weekday())
