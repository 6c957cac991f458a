"""The `otlp` sink: usage as metrics of OpenTelemetry, to watch and not to bill (OTLP/HTTP 1.x, JSON).

Each batch is one request with delta sums: units of a field and its labels since the request before it.
The protocol knows no duplicates, so what is sent again counts again; and of an event only what it adds
is sent, at the time of sending.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from meter_mw.ledger.records import Record
from meter_mw.sinks.answers import Answer
from meter_mw.sinks.base import Delivered, Outcome, Permanent, Retry
from meter_mw.sinks.kinds import PLAIN_HTTP, TIMEOUT, URL, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.poster import Poster
from meter_mw.sinks.series import LABELS, Series, labels_of, observed, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_log = logging.getLogger("meter_mw.sinks")

_DELTA = 1  # AggregationTemporality
_RETRYABLE = frozenset({429, 502, 503, 504})  # OTLP 1.x, "Failures"
_UNITS = {"requests": "{request}", "request_bytes": "By", "response_bytes": "By"}  # UCUM
_LONGEST = 200


class OtlpSink:
    """Posts delta sums to one URL, with a `secret` in the field `header`.

    `clock` gives seconds since 1970. Raises `ValueError` for a URL that cannot be used.
    """

    max_batch = 1000
    horizon = None

    def __init__(
        self,
        url: str,
        source: str,
        fields: Sequence[str],
        *,
        labels: Sequence[str] = ("route",),
        header: str = "Authorization",
        secret: str | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._poster = Poster(url, timeout=timeout)
        self._service = source.removeprefix("urn:meter-mw:")
        self._quantities = tuple(fields)
        self._labels = tuple(labels)
        self._headers = {"Content-Type": "application/json"} | ({header: secret} if secret else {})
        self._clock = clock
        self._begin_stream()
        self.name = f"otlp:{self._poster.name}"

    def __repr__(self) -> str:
        return f"OtlpSink({self._poster.origin + '/…'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Post what the batch adds up to; nothing where it adds nothing."""
        if self._pid != os.getpid():
            self._begin_stream()
        entries = [observed(payload) for payload in batch]
        records = [entry for entry in entries if isinstance(entry, Record)]
        sums = tally(records, self._quantities, self._labels)
        outcome = self._post(sums) if sums else Delivered()
        return [outcome if isinstance(entry, Record) else entry for entry in entries]

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _begin_stream(self) -> None:
        """Begin a stream: each has one writer, and its spans of time follow one another."""
        self._pid = os.getpid()
        self._instance = str(uuid4())
        self._since_ns = int(self._clock() * 1e9)

    def _post(self, sums: Mapping[Series, int]) -> Outcome:
        now_ns = max(int(self._clock() * 1e9), self._since_ns + 1)
        answer = self._poster.post(self._body(sums, now_ns), self._headers)
        if not isinstance(answer, Answer):
            return answer
        if answer.accepts:
            self._since_ns = now_ns
            self._read(answer)
            return Delivered()
        if answer.status in _RETRYABLE or answer.blames_operator:
            return Retry(answer.retry_after, answer.reason)
        return Permanent(answer.reason)

    def _read(self, answer: Answer) -> None:
        """Say what of a request was not taken; it is not to be sent again (OTLP, "Partial Success")."""
        try:
            said = json.loads(answer.body or b"{}").get("partialSuccess") or {}
            rejected, words = int(said.get("rejectedDataPoints", 0)), str(said.get("errorMessage", ""))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return
        if rejected or words:
            _log.warning("%s: %d data points were not taken: %.200r", self.name, rejected, words[:_LONGEST])

    def _body(self, sums: Mapping[Series, int], now_ns: int) -> bytes:
        points: dict[str, list[dict[str, object]]] = {}
        for (field, values), units in sums.items():
            points.setdefault(field, []).append(
                {
                    "attributes": [
                        _attribute(name, value)
                        for name, value in zip(self._labels, values, strict=True)
                        if value
                    ],
                    # 64 bits are texts in the JSON of Protocol Buffers.
                    "startTimeUnixNano": str(self._since_ns),
                    "timeUnixNano": str(now_ns),
                    "asInt": str(units),
                }
            )
        metrics = [
            {
                "name": f"meter_mw.{field}",
                "unit": _UNITS.get(field, "1"),
                "sum": {"aggregationTemporality": _DELTA, "isMonotonic": True, "dataPoints": each},
            }
            for field, each in points.items()
        ]
        resource = [
            _attribute("service.name", self._service),
            _attribute("service.instance.id", self._instance),
        ]
        scope = {"scope": {"name": "meter_mw"}, "metrics": metrics}
        return json.dumps(
            {"resourceMetrics": [{"resource": {"attributes": resource}, "scopeMetrics": [scope]}]},
            ensure_ascii=False,
        ).encode()


def _attribute(key: str, value: str) -> dict[str, object]:
    return {"key": key, "value": {"stringValue": value}}


def _fault_of_header(text: str) -> str | None:
    sound = text.isascii() and text.replace("-", "").isalnum()
    return None if sound else "the name of a header field has letters, digits and hyphens"


def _fault_of_secret(text: str) -> str | None:
    sound = text.isascii() and text.isprintable() and text.strip() == text and text
    return None if sound else "the secret is empty, or a header field cannot hold it"


def _open(settings: Settings, service: Service) -> OtlpSink:
    return OtlpSink(
        settings.text("otlp"),
        service.source,
        service.fields,
        labels=labels_of(settings.text("labels")),
        header=settings.text("header"),
        secret=settings.get_text("secret"),
        timeout=settings.seconds("timeout"),
    )


KIND = SinkKind(
    "otlp",
    URL,
    {
        "labels": LABELS,
        "header": Option(
            Form.TEXT, "the name of a header field", default="Authorization", fault=_fault_of_header
        ),
        "secret": Option(
            Form.SECRET, "what the header field holds, by reference: ${OTLP_TOKEN}", fault=_fault_of_secret
        ),
        "plain_http": PLAIN_HTTP,
        "timeout": TIMEOUT,
    },
    _open,
    for_billing=False,
)
