"""The `openmeter` sink: usage events as OpenMeter takes them, by its API v1 or v3.

An event goes there whole, and OpenMeter's own meters find their quantities in it. It knows an event by
source and id, if its operator has it do so, and answers 2xx before it has stored anything.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from meter_mw.model import REQUEST_EVENT
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
from meter_mw.sinks.base import Delivered, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import PLAIN_HTTP, TIMEOUT, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.sifting import sift
from meter_mw.sinks.translating import Refused, read_usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meter_mw.sinks.answers import Answer

_log = logging.getLogger("meter_mw.sinks")

# v1 compares the whole field: with a charset behind it the batch is a 400.
_BATCH = "application/cloudevents-batch+json"
_EVENTS = {"v1": "/api/v1/events", "v3": "/openmeter/events"}
_SUBJECTS_ASKED = 50
_DAY = 86_400
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_SLUG = re.compile(r"(?=.{1,64}$)[a-z0-9]+(?:_[a-z0-9]+)*")


class OpenMeterSink:
    """Posts batches of CloudEvents, and asks the meters what they have.

    `fields` are the quantities of an event, `meters` the slugs or ids of the meters that sum them, each
    under its field; `customers` has the subjects that are called otherwise there. `version` is v1 or v3.
    `horizon` is how long OpenMeter knows an id again; 0 where it does not dedupe.
    Raises `ValueError` for what contradicts itself or cannot be used.
    """

    max_batch = 100

    def __init__(
        self,
        api: Api,
        version: str,
        fields: Sequence[str],
        *,
        meters: Mapping[str, str] | None = None,
        customers: Mapping[str, str] | None = None,
        horizon: float = _DAY,
    ) -> None:
        self._api = api
        self._version = version
        self._fields = fields
        self._meters = metered(_checked(meters or {}), fields)
        self._customers = apart(customers or {})
        self.horizon: float | None = horizon
        self.name = f"openmeter:{api.name}"

    def __repr__(self) -> str:
        return f"OpenMeterSink({self._api.origin + '/…'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Post the batch, in halves where an event of it is refused."""
        found: dict[int, Outcome] = {}
        bodies: dict[int, bytes] = {}
        for place, payload in enumerate(batch):
            try:
                body = self._translated(payload)
            except Refused as refusal:
                found[place] = Permanent(str(refusal))
                continue
            if body is None:
                found[place] = Delivered()
            else:
                bodies[place] = body
        found |= zip(bodies, sift(list(bodies.values()), self._attempt, _read), strict=True)
        return [found[place] for place in range(len(batch))]

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Ask each meter for its sum of each subject in [start, end)."""
        names = {self._customers.get(subject, subject): subject for subject in subjects}
        window = moment(start_us), moment(end_us)
        found: dict[tuple[str, str], int] = {}
        for field, meter in self._meters.items():
            for asked in _in_portions(list(names)):
                ask = self._ask_v1 if self._version == "v1" else self._ask_v3
                sums = ask(meter, asked, *window)
                if sums is None:
                    _log.warning("%s has no meter %s for %s", self.name, meter, field)
                    break
                found |= {(names[each], field): sums[each] for each in asked if each in sums}
        return found

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

    def _translated(self, payload: bytes) -> bytes | None:
        """Give an event as OpenMeter is to have it; v3 takes no attribute beside those of its schema.

        A meter counts events of one type, so a correction has that of what it corrects; and every quantity
        is there, as a meter marks an event invalid that lacks its own.
        """
        usage = read_usage(payload, self._fields)
        if usage is None:
            return None
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "id": usage.id,
                "source": usage.source,
                "type": REQUEST_EVENT,
                "subject": self._customers.get(usage.subject, usage.subject),
                "time": usage.time,
                "datacontenttype": "application/json",
                "data": {**usage.data, **usage.quantities},
            }
        )

    def _attempt(self, events: Sequence[bytes]) -> Answer | Retry | Unknown:
        return self._api.post(_EVENTS[self._version], b"[" + b",".join(events) + b"]", _BATCH)

    def _ask_v1(self, meter: str, customers: Sequence[str], start: str, end: str) -> _Sums | None:
        query = [("from", start), ("to", end), ("groupBy", "subject")]
        query += [("subject", customer) for customer in customers]
        answer = self._api.ask(_SumsV1, f"/api/v1/meters/{segment(meter)}/query", query)
        return None if answer is None else {row.subject: int(number(row.value)) for row in answer.data}

    def _ask_v3(self, meter: str, customers: Sequence[str], start: str, end: str) -> _Sums | None:
        key = meter if _ULID.fullmatch(meter) else self._meter_id(meter)
        if key is None:
            return None
        question = {
            "from": start,
            "to": end,
            "filters": {"dimensions": {"subject": {"in": customers}}},
            "group_by_dimensions": ["subject"],
        }
        answer = self._api.ask(_SumsV3, f"/openmeter/meters/{key}/query", body=question)
        if answer is None:
            return None
        return {row.dimensions.get("subject"): int(number(row.value)) for row in answer.data}

    def _meter_id(self, slug: str) -> str | None:
        """Look up what v3 calls a meter; None where there is none of this slug."""
        answer = self._api.ask(_Meters, "/openmeter/meters", [("filter[key]", slug)])
        return next((meter.id for meter in answer.data if meter.key == slug), None) if answer else None


_Sums: TypeAlias = "dict[str | None, int]"


class _SumV1(msgspec.Struct):
    value: float
    subject: str | None = None


class _SumsV1(msgspec.Struct):
    data: list[_SumV1]


class _SumV3(msgspec.Struct):
    value: str
    dimensions: dict[str, str]


class _SumsV3(msgspec.Struct):
    data: list[_SumV3]


class _Meter(msgspec.Struct):
    id: str
    key: str


class _Meters(msgspec.Struct):
    data: list[_Meter]


def _read(answer: Answer, events: Sequence[bytes]) -> Mapping[int, Outcome]:
    """Give what an answer says of each event. A batch of which one is refused is refused whole (400).

    After a 5xx some may have been taken: OpenMeter takes one after the other, and stops at a failure.
    """
    if answer.accepts:
        return dict.fromkeys(range(len(events)), Delivered())
    if is_refusal(answer):
        return {} if len(events) > 1 else {0: Permanent(answer.reason)}
    return dict.fromkeys(range(len(events)), failure(answer))


def _checked(meters: Mapping[str, str]) -> Mapping[str, str]:
    for field, meter in meters.items():
        if not (_SLUG.fullmatch(meter) or _ULID.fullmatch(meter)):
            raise ValueError(f"meters.{field}: {meter!r:.80} is neither the slug nor the id of a meter")
    return meters


def _in_portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), _SUBJECTS_ASKED):
        yield names[first : first + _SUBJECTS_ASKED]


def _open(settings: Settings, service: Service) -> OpenMeterSink:
    return OpenMeterSink(
        Api(settings.text("openmeter"), settings.get_text("secret"), timeout=settings.seconds("timeout")),
        settings.text("api"),
        service.fields,
        meters=settings.table("meters"),
        customers=settings.table("customers"),
        horizon=settings.seconds("dedupe"),
    )


_DEDUPE = "a time such as 1 day, 0s for never"

KIND = SinkKind(
    "openmeter",
    base_url("https://openmeter.cloud"),
    {
        "secret": token("OPENMETER_TOKEN", needed=False),
        "api": Option(Form.WORD, "v1 or v3", default="v1", words=("v1", "v3")),
        "meters": METERS,
        "customers": CUSTOMERS,
        "dedupe": Option(Form.LENGTH, _DEDUPE, default=float(_DAY), most=400 * _DAY),
        "plain_http": PLAIN_HTTP,
        "timeout": TIMEOUT,
    },
    _open,
)
