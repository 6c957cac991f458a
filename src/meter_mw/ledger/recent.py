"""Who is busy now: what the events of the last moments tell by subject or route. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.model import REQUEST_EVENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.ledger.records import Record
    from meter_mw.ledger.spans import Span

BY = ("subject", "route")


class Busy(NamedTuple):
    """What one subject or route was answered to; `errors` are those of 4xx and 5xx, `duration_us` their sum.

    Parts of long exchanges count like requests here: they are signs of life.
    """

    name: str
    answers: int
    request_bytes: int
    response_bytes: int
    errors: int
    duration_us: int


def busiest(records: Iterable[Record], by: str, span: Span) -> list[Busy]:
    """Give what single events tell of a span, the busiest first; each id counts once."""
    found: dict[str, list[int]] = defaultdict(lambda: [0] * 5)
    seen: set[str] = set()
    for record in records:
        row = record.row
        status = row["status"]
        is_meant = row["type"] == REQUEST_EVENT and span.start_us <= record.time_us < span.end_us
        if not is_meant or not isinstance(status, int) or record.id in seen:
            continue
        seen.add(record.id)
        sums = found[str(row[by] or "")]
        told = (1, row["request_bytes"], row["response_bytes"], status >= 400, row["duration_us"])
        sums[:] = [a + int(b) if isinstance(b, int) else a for a, b in zip(sums, told, strict=True)]
    return ordered(Busy(name, *sums) for name, sums in found.items())


def ordered(rows: Iterable[Busy]) -> list[Busy]:
    """Give the busiest first."""
    return sorted(rows, key=lambda row: (-row.answers, row.name))
