"""An OpenMeter: both of its APIs, strict as each of them is, and slow to say what it makes of an event.

It answers for an event when it has been put into its queue. Only later does it look whether it knows the
event, and what its meters find in it. Time is `now`, seconds since 1970; nothing happens by itself.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from email.message import Message
from typing import Any

from support.fakes.vendor import Asked, Said, Vendor

TOKEN = "om_canary_of_openmeter"
_CONTENT_TYPES = {
    "application/cloudevents+json": dict,
    "application/cloudevents-batch+json": list,
    "application/json": (dict, list),
}
_REQUIRED = ("id", "source", "specversion", "type", "subject")
_OPTIONAL = ("time", "data", "datacontenttype", "dataschema")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_MOST_LISTED = 100


@dataclass(frozen=True)
class Meter:
    """What sums, or counts, the events of one type."""

    id: str
    slug: str
    property: str | None
    event_type: str = "meter_mw.request.v1"


@dataclass
class Stored:
    """An event as it is stored: times in whole seconds, and what its meters did not understand."""

    event: dict[str, Any]
    time: int
    validation_error: str | None


class FakeOpenMeter(Vendor):
    """Knows an event by source and id for `dedupe_s` seconds; None: it does not look.

    "partial N" as a fault takes N events of the batch and then answers 500.
    """

    def __init__(self, *properties: str, dedupe_s: float | None = 86_400, token: str | None = TOKEN) -> None:
        super().__init__()
        self.now = 1_795_000_000.0
        self.dedupe_s = dedupe_s
        self.token = token
        self.meters = [
            Meter(f"01G65Z755AFWAKHE12NY0CQ{number:03}", name, f"$.{name}")
            for number, name in enumerate(properties)
        ]
        self._queue: list[tuple[dict[str, Any], float]] = []
        self._stored: list[Stored] = []
        self._known: dict[str, float] = {}

    # -- what tests ask

    def stored(self) -> list[Stored]:
        """Work off the queue, and give what is stored."""
        with self.lock:
            while self._queue:
                self._store(*self._queue.pop(0))
            return list(self._stored)

    def ids(self) -> list[str]:
        return [each.event["id"] for each in self.stored()]

    def total(self, slug: str, subject: str, start: float = 0, end: float = math.inf) -> Decimal:
        """Give what a meter has of a subject."""
        (meter,) = (each for each in self.meters if each.slug == slug)
        return sum(
            (
                Decimal(_value(meter, each.event))
                for each in self.stored()
                if _counts(meter, each, start, end) and each.event["subject"] == subject
            ),
            Decimal(0),
        )

    # -- what is behind the API

    def _store(self, event: dict[str, Any], queued: float) -> None:
        key = f"default-{event['source']}-{event['id']}"
        seen = self._known.get(key)
        if self.dedupe_s is not None and seen is not None and queued - seen < self.dedupe_s:
            return
        self._known[key] = queued
        moment = datetime.fromisoformat(event["time"]).timestamp() if event.get("time") else queued
        errors = [error for meter in self.meters if (error := _error(meter, event))]
        self._stored.append(Stored(event, int(moment), "; ".join(errors) or None))

    # -- the API

    def answer(self, asked: Asked, fault: str | None) -> Said:
        v1, v3 = asked.path.removeprefix("/api/v1"), asked.path.removeprefix("/api/v3/openmeter")
        is_v1 = v1 != asked.path
        path = v1 if is_v1 else v3
        if path == asked.path:
            return _problem(404, "no such path")
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            return _problem(401, "Unauthorized")
        match asked.method, path.strip("/").split("/"):
            case "POST", ["events"]:
                return self._ingest(asked, fault, is_v1=is_v1)
            case "GET", ["events"] if is_v1:
                return Said(200, [_listed(each) for each in self.stored()[-_MOST_LISTED:]])
            case "GET", ["meters", slug, "query"] if is_v1:
                return self._query_v1(asked, slug)
            case "GET", ["meters"] if not is_v1:
                return self._list_v3(asked)
            case "POST", ["meters", key, "query"] if not is_v1:
                return self._query_v3(asked, key)
        return _problem(405, "Method Not Allowed")

    def _ingest(self, asked: Asked, fault: str | None, *, is_v1: bool) -> Said:
        content_type = asked.headers.get("content-type", "")
        if not is_v1:
            content_type = _media_type(content_type)
        if content_type not in _CONTENT_TYPES:
            return _problem(400, "invalid content type")
        try:
            document = json.loads(asked.body)
        except ValueError:
            return _problem(400, "invalid JSON")
        if not isinstance(document, _CONTENT_TYPES[content_type]):
            return _problem(400, "the body does not fit its content type")
        events = document if isinstance(document, list) else [document]
        for event in events:
            error = _schema_error(event, is_strict=not is_v1)
            if error:
                field, reason = error
                more = [{"field": field, "reason": reason, "source": "body"}]
                return _problem(400, f"[{field}] {reason}", **({} if is_v1 else {"invalid_parameters": more}))
        most = int(fault.split()[1]) if fault and fault.startswith("partial") else len(events)
        self._queue += [(event, self.now) for event in events[:most]]
        if most < len(events):
            return _problem(500, "Internal Server Error")
        return Said(204) if is_v1 else Said(202)

    def _query_v1(self, asked: Asked, slug: str) -> Said:
        meter = next((each for each in self.meters if slug in (each.slug, each.id)), None)
        if meter is None:
            return _problem(404, f"meter not found: {slug}")
        if asked.all("groupBy") != ["subject"]:
            return _problem(400, "the fake sums by subject")
        start, end = (_instant(asked.one(name)) for name in ("from", "to"))
        rows = [
            {
                "subject": subject,
                "value": float(self.total(meter.slug, subject, start, end)),
                "windowStart": asked.one("from"),
                "windowEnd": asked.one("to"),
                "groupBy": {},
            }
            for subject in self._seen(meter, start, end)
            if subject in asked.all("subject")
        ]
        return Said(200, {"data": rows, "from": asked.one("from"), "to": asked.one("to")})

    def _list_v3(self, asked: Asked) -> Said:
        key = asked.one("filter[key]")
        found = [{"id": each.id, "key": each.slug} for each in self.meters if key in (None, each.slug)]
        return Said(200, {"data": found, "meta": {"page": {"number": 1, "size": 20, "total": len(found)}}})

    def _query_v3(self, asked: Asked, key: str) -> Said:
        meter = next((each for each in self.meters if key == each.id), None)
        if meter is None:
            return _problem(404, f"meter not found: {key}")
        question = json.loads(asked.body)
        if set(question) - {"from", "to", "filters", "granularity", "time_zone", "group_by_dimensions"}:
            return _problem(
                400, "additional properties", invalid_parameters=[{"field": "body", "reason": "unknown"}]
            )
        subjects = question["filters"]["dimensions"]["subject"]["in"]
        if not 1 <= len(subjects) <= 100 or question["group_by_dimensions"] != ["subject"]:
            return _problem(
                400, "in: 1 to 100 items", invalid_parameters=[{"field": "in", "reason": "items"}]
            )
        start, end = _instant(question["from"]), _instant(question["to"])
        rows = [
            {
                "value": str(self.total(meter.slug, subject, start, end)),
                "from": question["from"],
                "to": question["to"],
                "dimensions": {"subject": subject},
            }
            for subject in self._seen(meter, start, end)
            if subject in subjects
        ]
        return Said(200, {"data": rows, "from": question["from"], "to": question["to"]})

    def _seen(self, meter: Meter, start: float, end: float) -> list[str]:
        return sorted({each.event["subject"] for each in self.stored() if _counts(meter, each, start, end)})


def _counts(meter: Meter, stored: Stored, start: float, end: float) -> bool:
    is_valid = _error(meter, stored.event) is None
    return is_valid and stored.event["type"] == meter.event_type and start <= stored.time < end


def _value(meter: Meter, event: dict[str, Any]) -> Any:
    return 1 if meter.property is None else (event.get("data") or {}).get(meter.property.removeprefix("$."))


def _error(meter: Meter, event: dict[str, Any]) -> str | None:
    """Say what a meter does not understand of an event of its type."""
    if event["type"] != meter.event_type:
        return None
    value = _value(meter, event)
    if value is None:
        return f'event data is missing value property at "{meter.property}"'
    try:
        sound = not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        sound = False
    return None if sound else "event data value cannot be parsed as float64"


def _schema_error(event: object, *, is_strict: bool) -> tuple[str, str] | None:
    """Name a member that is wrong, and what is wrong with it."""
    if not isinstance(event, dict):
        return "body", "is not an object"
    for name in _REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            return name, "is a required field"
    if event["specversion"] != "1.0":
        return "specversion", "is not 1.0"
    if event.get("datacontenttype") not in (None, "application/json"):
        return "datacontenttype", "is not application/json"
    if not isinstance(event.get("data"), dict | None):
        return "data", "is not an object"
    if event.get("time") is not None and not _RFC_3339.fullmatch(str(event["time"])):
        return "time", "is not RFC 3339"
    more = set(event) - {*_REQUIRED, *_OPTIONAL}
    return (more.pop(), "is not allowed") if more and is_strict else None


def _media_type(field: str) -> str:
    message = Message()
    message["content-type"] = field
    return message.get_content_type()


def _listed(stored: Stored) -> dict[str, Any]:
    error = {"validationError": stored.validation_error} if stored.validation_error else {}
    return {"event": stored.event, **error}


def _instant(text: str | None) -> float:
    if text is None or not _RFC_3339.fullmatch(text):
        raise ValueError(f"found {text!r}; expected RFC 3339")
    return datetime.fromisoformat(text).timestamp()


def _problem(status: int, detail: str, **more: object) -> Said:
    body = {
        "type": "about:blank",
        "title": str(status),
        "status": status,
        "detail": detail,
        "instance": "",
        **more,
    }
    return Said(status, body, content_type="application/problem+json")
