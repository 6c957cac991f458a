"""The `http` sink: usage events as CloudEvents batches, signed as Standard Webhooks.

A batch is one POST of `application/cloudevents-batch+json` (CloudEvents 1.0.2, HTTP binding, 3.3).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meter_mw.sinks.answers import outcomes
from meter_mw.sinks.kinds import PLAIN_HTTP, TIMEOUT, URL, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.poster import Poster
from meter_mw.sinks.sifting import sift
from meter_mw.sinks.signing import Signer, fault_of_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from meter_mw.sinks.answers import Answer
    from meter_mw.sinks.base import Outcome, Retry, Unknown


class HttpSink:
    """Posts batches to one URL over one kept connection; see `Poster` for what is not said here.

    Raises `ValueError` for a URL or secret that cannot be used.
    """

    horizon = None

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        timeout: float = 10.0,
        *,
        name: str | None = None,
        max_batch: int = 100,
        ca_file: Path | None = None,
        allow_private: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._poster = Poster(url, timeout=timeout, ca_file=ca_file, allow_private=allow_private, clock=clock)
        self.max_batch = max_batch
        self.name = name or self._poster.name
        self._signer = Signer(secret) if secret is not None else None
        self._clock = clock

    def __repr__(self) -> str:
        return f"HttpSink({self._poster.origin + '/…'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Post the batch, in halves where an event of it is refused.

        After an attempt that failed as a whole, nothing more of the batch is sent this time.
        """
        return sift(batch, self._attempt, _read)

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _attempt(self, batch: Sequence[bytes]) -> Answer | Retry | Unknown:
        body = b"[" + b",".join(batch) + b"]"
        fields = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
        if self._signer:
            fields |= self._signer.headers(body, self._clock())
        return self._poster.post(body, fields)


def _read(answer: Answer, batch: Sequence[bytes]) -> Mapping[int, Outcome]:
    """Give what an answer says of each event; a refusal of several says nothing of any."""
    return {} if answer.divides and len(batch) > 1 else dict(enumerate(outcomes(answer, batch)))


def _open(settings: Settings, service: Service) -> HttpSink:  # noqa: ARG001 - every kind is opened alike
    return HttpSink(
        settings.text("http"),
        settings.get_text("secret"),
        settings.seconds("timeout"),
        max_batch=settings.count("batch"),
    )


KIND = SinkKind(
    "http",
    URL,
    {
        "secret": Option(Form.SECRET, "a secret by reference: ${HOOK_SECRET}", fault=fault_of_secret),
        "plain_http": PLAIN_HTTP,
        "timeout": TIMEOUT,
        "batch": Option(Form.COUNT, "events in one request, 1 to 10000", default=100, least=1, most=10_000),
    },
    _open,
)
