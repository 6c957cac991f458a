"""The `lago` sink: usage events as Lago bills them, a record for each quantity.

Lago has two stores, and does not say which. On PostgreSQL a batch with a record that it has is refused
whole, and names it; on ClickHouse a record with the same id and the same timestamp takes the place of the
first. So a record is always the same, to the last digit of its timestamp, and a name is an answer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from meter_mw.sinks.apis import (
    CUSTOMERS,
    METERS,
    Api,
    apart,
    base_url,
    failure,
    is_refusal,
    metered,
    moment,
    number,
    segment,
    token,
)
from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import PLAIN_HTTP, TIMEOUT, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.sifting import sift
from meter_mw.sinks.translating import Refused, read_usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meter_mw.sinks.answers import Answer

_log = logging.getLogger("meter_mw.sinks")

_BATCH = "/api/v1/events/batch"
_MOST_RECORDS = 100
_PAGE = 100
_KNOWN = {"transaction_id": ["value_already_exist"]}
_SHOWN = ("route", "method", "plan")
"""What of an event stands beside the quantity, for filters of charges."""


class LagoSink:
    """Posts batches of records, and adds up the records that Lago has.

    `fields` are the quantities of an event, `meters` the codes of the billable metrics that sum them, each
    under its field, `quantity` the property that they sum. `customers` has the external ids of the
    subscriptions of subjects that are called otherwise there.
    Raises `ValueError` for what contradicts itself or cannot be used.
    """

    horizon = None

    def __init__(
        self,
        api: Api,
        fields: Sequence[str],
        *,
        meters: Mapping[str, str] | None = None,
        customers: Mapping[str, str] | None = None,
        quantity: str = "quantity",
    ) -> None:
        self._api = api
        self._codes = metered(meters or {}, fields)
        self._customers = apart(customers or {})
        self._quantity = quantity
        self.max_batch = max(1, _MOST_RECORDS // max(1, len(self._codes)))
        self.name = f"lago:{api.name}"

    def __repr__(self) -> str:
        return f"LagoSink({self._api.origin + '/…'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Post the records of the batch; those that Lago has or refuses are left out of the next attempt."""
        events: list[Outcome | list[bytes]] = [self._translated(payload) for payload in batch]
        records = [record for each in events if isinstance(each, list) for record in each]
        said: list[Outcome] = []
        for first in range(0, len(records), _MOST_RECORDS):
            said += sift(records[first : first + _MOST_RECORDS], self._attempt, _read)
        answers = iter(said)
        return [
            _together([next(answers) for _ in each]) if isinstance(each, list) else each for each in events
        ]

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Add up the records of each subject in [start, end), for each metric that is one."""
        found: dict[tuple[str, str], int] = {}
        for field, code in self._codes.items():
            if not self._is_summed(field, code):
                continue
            for subject in subjects:
                records = {record.key: record for record in self._records(subject, code, start_us, end_us)}
                if records:
                    total = sum(number(record.properties.get(self._quantity)) for record in records.values())
                    found[subject, field] = int(total)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

    def _translated(self, payload: bytes) -> Outcome | list[bytes]:
        """Give the records of an event; what is none of Lago's is as good as delivered."""
        try:
            usage = read_usage(payload, list(self._codes))
        except Refused as refusal:
            return Permanent(str(refusal))
        if usage is None or not any(usage.quantities.values()):
            return Delivered()
        shown = {name: text for name in _SHOWN if isinstance(text := usage.data.get(name), str)}
        seconds, thousandths = divmod(usage.milliseconds, 1000)
        return [
            msgspec.json.encode(
                {
                    "transaction_id": f"{usage.id}:{field}",
                    "external_subscription_id": self._customers.get(usage.subject, usage.subject),
                    "code": self._codes[field],
                    "timestamp": f"{seconds}.{thousandths:03}",
                    "properties": {**shown, self._quantity: str(units)},
                }
            )
            for field, units in usage.quantities.items()
            if units
        ]

    def _attempt(self, records: Sequence[bytes]) -> Answer | Retry | Unknown:
        return self._api.post(_BATCH, b'{"events":[' + b",".join(records) + b"]}")

    def _is_summed(self, field: str, code: str) -> bool:
        """Say whether a metric bills our records: Lago takes those of any code, and bills what it knows."""
        answer = self._api.ask(_MetricAnswer, f"/api/v1/billable_metrics/{segment(code)}")
        if answer is None:
            _log.warning("%s has no billable metric %s for %s: none is billed", self.name, code, field)
            return False
        metric = answer.billable_metric
        if (metric.aggregation_type, metric.field_name) == ("sum_agg", self._quantity):
            return True
        _log.warning("%s: the metric %s is no sum_agg of %s: none is billed", self.name, code, self._quantity)
        return False

    def _records(self, subject: str, code: str, start_us: int, end_us: int) -> Iterator[_Record]:
        """List the records of a window; Lago counts both of its ends in, to the ms."""
        query = [
            ("external_subscription_id", self._customers.get(subject, subject)),
            ("code", code),
            ("timestamp_from", moment(start_us)),
            ("timestamp_to", moment(end_us - 1000)),
            ("per_page", str(_PAGE)),
        ]
        page: int | None = 1
        while page is not None:
            listed = self._api.ask(_Page, "/api/v1/events", [*query, ("page", str(page))]) or _Page()
            yield from listed.events
            # What is said of further pages may be half an hour old.
            is_last = listed.meta.next_page is None and len(listed.events) < _PAGE
            page = None if is_last or not listed.events else page + 1


class _Record(msgspec.Struct):
    """A record as Lago lists it. Until ClickHouse has merged its parts, one may be listed twice."""

    transaction_id: str
    timestamp: str
    properties: dict[str, str | int | float | None]

    @property
    def key(self) -> tuple[str, str]:
        return self.transaction_id, self.timestamp


class _Meta(msgspec.Struct):
    next_page: int | None = None


class _Page(msgspec.Struct):
    events: list[_Record] = []
    meta: _Meta = msgspec.field(default_factory=_Meta)


class _Metric(msgspec.Struct):
    aggregation_type: str
    field_name: str | None = None


class _MetricAnswer(msgspec.Struct):
    billable_metric: _Metric


class _Refusal(msgspec.Struct):
    error_details: dict[str, object] = {}


def _read(answer: Answer, records: Sequence[bytes]) -> Mapping[int, Outcome]:
    """Give what an answer says of each record; one that refuses some by place says nothing of the rest."""
    if answer.accepts:
        return dict.fromkeys(range(len(records)), Delivered())
    named = _named(answer, len(records)) if answer.status == 422 else {}
    if named:
        return named
    if is_refusal(answer):
        return {} if len(records) > 1 else {0: Permanent(answer.reason)}
    return dict.fromkeys(range(len(records)), failure(answer, _reset(answer)))


def _named(answer: Answer, count: int) -> dict[int, Outcome]:
    """Give what a 422 says by place: what Lago has already, and what it never takes.

    `{"error_details": {"3": {"transaction_id": ["value_already_exist"]}}}`; of a single record without place.
    """
    try:
        details = msgspec.json.decode(answer.body, type=_Refusal).error_details
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if count == 1 and details == _KNOWN:
        return {0: Duplicate()}
    return {
        int(place): Duplicate() if fault == _KNOWN else Permanent(f"HTTP 422 {fault!s:.200}")
        for place, fault in details.items()
        if place.isdecimal() and int(place[:9]) < count
    }


def _reset(answer: Answer) -> float | None:
    """Give the seconds until the limit on requests is whole again."""
    text = answer.fields.get("x-ratelimit-reset", "")
    return float(text[:9]) if text.isascii() and text.isdecimal() else None


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """Give what became of an event: what failed is sent again, before what is refused for good is parked."""
    for kind in (Unknown, Retry):
        failed = next((each for each in outcomes if isinstance(each, kind)), None)
        if failed is not None:
            return failed
    reasons = [each.reason for each in outcomes if isinstance(each, Permanent)]
    if reasons:
        return Permanent("; ".join(dict.fromkeys(reasons)))
    return Duplicate() if all(isinstance(each, Duplicate) for each in outcomes) else Delivered()


def _open(settings: Settings, service: Service) -> LagoSink:
    return LagoSink(
        Api(settings.text("lago"), settings.text("secret"), timeout=settings.seconds("timeout")),
        service.fields,
        meters=settings.table("meters"),
        customers=settings.table("customers"),
        quantity=settings.text("quantity"),
    )


KIND = SinkKind(
    "lago",
    base_url("https://api.getlago.com"),
    {
        "secret": token("LAGO_KEY", needed=True),
        "meters": METERS,
        "customers": CUSTOMERS,
        "quantity": Option(Form.TEXT, "the name of a property", default="quantity"),
        "plain_http": PLAIN_HTTP,
        "timeout": TIMEOUT,
    },
    _open,
)
