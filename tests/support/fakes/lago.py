"""A Lago with either of its stores: what it refuses, what it takes and never bills, and what it has twice."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from support.fakes.vendor import Asked, Said, Vendor

KEY = "canary-key-of-lago-0123456789"
_MOST = 100
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@dataclass(frozen=True)
class Metric:
    """A billable metric."""

    code: str
    field_name: str | None = "quantity"
    aggregation_type: str = "sum_agg"


@dataclass
class Row:
    """A stored event; the timestamp to the ms, as a number of them."""

    transaction_id: str
    subscription: str
    code: str
    timestamp: int
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def second_key(self) -> tuple[object, ...]:
        """By what ClickHouse has a row take the place of another."""
        return self.subscription, self.code, self.transaction_id, self.timestamp


class FakeLago(Vendor):
    """`store` is "postgres" or "clickhouse". "partial N" as a fault: ClickHouse's queue takes N, then 500."""

    def __init__(self, store: str, *metrics: Metric) -> None:
        super().__init__()
        self.store = store
        self.metrics = {metric.code: metric for metric in metrics}
        self.rows: list[Row] = []
        """Everything that was taken, also what took the place of another."""

    # -- what tests ask

    def current(self) -> list[Row]:
        """Give what is left when ClickHouse has merged."""
        if self.store == "postgres":
            return list(self.rows)
        return list({row.second_key: row for row in self.rows}.values())

    def billed(self, code: str, subscription: str) -> Decimal:
        """Give the units of a subscription's charge."""
        metric = self.metrics.get(code)
        rows = [row for row in self.current() if (row.code, row.subscription) == (code, subscription)]
        if metric is None or metric.field_name is None:
            return Decimal(0)
        return sum((Decimal(str(row.properties.get(metric.field_name, 0))) for row in rows), Decimal(0))

    def errors(self) -> dict[str, list[str]]:
        """Give what the webhook `events.errors` tells an hour later, by transaction id."""
        unknown = [row.transaction_id for row in self.current() if row.code not in self.metrics]
        missing = [
            row.transaction_id
            for row in self.current()
            if row.code in self.metrics and self.metrics[row.code].field_name not in row.properties
        ]
        return {"invalid_code": unknown, "missing_aggregation_property": missing}

    # -- the API

    def answer(self, asked: Asked, fault: str | None) -> Said:
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return Said(401, {"status": 401, "error": "Unauthorized"})
        match asked.method, asked.path.strip("/").split("/"):
            case "POST", ["api", "v1", "events", "batch"]:
                return self._take(asked, fault)
            case "GET", ["api", "v1", "events"]:
                return self._list(asked)
            case "GET", ["api", "v1", "billable_metrics", code] if code in self.metrics:
                return Said(200, {"billable_metric": {"lago_id": "1a90", **vars(self.metrics[code])}})
            case "GET", ["api", "v1", "billable_metrics", _]:
                return Said(404, {"status": 404, "error": "Not Found", "code": "billable_metric_not_found"})
        return Said(404, {"status": 404, "error": "Not Found"})

    def _take(self, asked: Asked, fault: str | None) -> Said:
        if asked.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _invalid({"events": ["no_events"]})
        try:
            events = json.loads(asked.body)["events"]
        except (ValueError, KeyError, TypeError):
            return Said(400, {"status": 400, "error": "Bad Request"})
        if not events:
            return _invalid({"events": ["no_events"]})
        if len(events) > _MOST:
            return _invalid({"events": ["too_many_events"]})
        faults = {str(place): wrong for place, event in enumerate(events) if (wrong := _fault(event))}
        if faults:
            return _invalid(faults)
        rows = [
            Row(
                event["transaction_id"],
                event["external_subscription_id"],
                event["code"],
                int(Decimal(str(event["timestamp"])) * 1000),
                event.get("properties", {}),
            )
            for event in events
        ]
        if self.store == "postgres":
            had = {(row.subscription, row.transaction_id) for row in self.rows}
            known = [place for place, row in enumerate(rows) if (row.subscription, row.transaction_id) in had]
            if known:
                return _invalid({str(place): {"transaction_id": ["value_already_exist"]} for place in known})
        most = int(fault.split()[1]) if fault and fault.startswith("partial") else len(rows)
        self.rows += rows[:most]
        if most < len(rows):
            return Said(500, {"status": 500, "error": "Internal Server Error"})
        return Said(200, {"events": [_shown(row) for row in rows]})

    def _list(self, asked: Asked) -> Said:
        start, end = (_milliseconds(asked.one(name)) for name in ("timestamp_from", "timestamp_to"))
        rows = [
            row
            for row in sorted(self.rows, key=lambda row: (-row.timestamp, row.transaction_id))
            if row.subscription == asked.one("external_subscription_id")
            and row.code == asked.one("code")
            and start <= row.timestamp <= end
        ]
        page, size = int(asked.one("page") or 1), min(int(asked.one("per_page") or _MOST), _MOST)
        pages = -(-len(rows) // size)
        meta = {
            "current_page": page,
            "next_page": page + 1 if page < pages else None,
            "prev_page": page - 1 if page > 1 else None,
            "total_pages": pages,
            "total_count": len(rows),
        }
        shown = [_shown(row) for row in rows[(page - 1) * size : page * size]]
        return Said(200, {"events": shown, "meta": meta})


def _fault(event: dict[str, Any]) -> dict[str, list[str]]:
    faults = {
        name: ["value_is_mandatory"]
        for name in ("transaction_id", "code")
        if not isinstance(event.get(name), str)
    }
    if not re.fullmatch(r"\d+(\.\d+)?", str(event.get("timestamp", ""))):
        faults["timestamp"] = ["invalid_format"]
    flat = all(isinstance(each, str | int | float) for each in event.get("properties", {}).values())
    return faults if flat else {**faults, "properties": ["invalid_format"]}


def _shown(row: Row) -> dict[str, Any]:
    moment = datetime.fromtimestamp(row.timestamp // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "lago_id": "1a901a90-1a90-1a90-1a90-1a901a901a90",
        "transaction_id": row.transaction_id,
        "external_subscription_id": row.subscription,
        "code": row.code,
        "timestamp": f"{moment}.{row.timestamp % 1000:03}Z",
        "properties": row.properties,
    }


def _milliseconds(text: str | None) -> int:
    if text is None or not _RFC_3339.fullmatch(text):
        raise ValueError(f"found {text!r}; expected a date and time")
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _invalid(details: dict[str, Any]) -> Said:
    body = {
        "status": 422,
        "error": "Unprocessable Entity",
        "code": "validation_errors",
        "error_details": details,
    }
    return Said(422, body)
