"""The `webhook` sink: one usage event a request, signed as Standard Webhooks has it.

The body is the CloudEvents object (HTTP binding, structured mode), `webhook-id` its id.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

import msgspec

from meter_mw.sinks.answers import Answer, outcomes
from meter_mw.sinks.base import Delivered, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import PLAIN_HTTP, URL, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.poster import Poster
from meter_mw.sinks.signing import Signer, fault_of_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = logging.getLogger("meter_mw.sinks")

_GONE = 410
# A field value that every server takes, and no full stop, which parts what is signed.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,200}")


class _Named(msgspec.Struct):
    id: str


_read_id = msgspec.json.Decoder(_Named)


class WebhookSink:
    """Posts each event to one URL over one kept connection; see `Poster` for what is not said here.

    With a `former_secret` each request is signed twice, for the time in which a receiver changes its own.
    Raises `ValueError` for a URL or secret that cannot be used.
    """

    max_batch = 20
    horizon = None

    def __init__(
        self,
        url: str,
        secret: str,
        former_secret: str | None = None,
        timeout: float = 20.0,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._poster = Poster(url, timeout=timeout, clock=clock)
        self.name = f"webhook:{self._poster.name}"
        self._signer = Signer(secret) if former_secret is None else Signer(secret, former_secret)
        self._clock = clock
        self._gone = False

    def __repr__(self) -> str:
        return f"WebhookSink({self._poster.origin + '/…'!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Post the events one after the other, up to the first that fails."""
        found: list[Outcome] = []
        for payload in batch:
            found.append(self._send(payload))
            if isinstance(found[-1], Retry | Unknown):
                break
        after = found[-1].after if found and isinstance(found[-1], Retry | Unknown) else None
        unsent = Retry(after, "not sent: the attempt before it failed")
        return found + [unsent] * (len(batch) - len(found))

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _send(self, payload: bytes) -> Outcome:
        if self._gone:
            return Retry(reason="HTTP 410: the receiver wants no more; nothing is sent until a restart")
        try:
            message = _read_id.decode(payload).id
        except (msgspec.DecodeError, RecursionError) as error:
            return Permanent(f"no event: {error!s:.200}")
        if not _MESSAGE_ID.fullmatch(message):
            return Permanent(f"the id {message!r:.100} cannot be that of a webhook")
        answer = self._poster.post(
            payload,
            {
                "Content-Type": "application/cloudevents+json; charset=utf-8",
                **self._signer.headers(payload, self._clock(), message),
            },
        )
        if not isinstance(answer, Answer):
            return answer
        if answer.status == _GONE:
            # Standard Webhooks, "Delivery": a 410 disables the endpoint.
            self._gone = True
            _log.critical(
                "%s/… answered 410: it wants no more events; they wait in the journal."
                " Change or remove the sink, or restart to try again",
                self._poster.origin,
            )
        return Delivered() if answer.accepts else outcomes(answer, [payload])[0]


def _open(settings: Settings, service: Service) -> WebhookSink:  # noqa: ARG001 - every kind is opened alike
    return WebhookSink(
        settings.text("webhook"),
        settings.text("secret"),
        settings.get_text("former_secret"),
        settings.seconds("timeout"),
    )


_SECRET = "a secret by reference: ${HOOK_SECRET}"  # noqa: S105 - what a complaint says

KIND = SinkKind(
    "webhook",
    URL,
    {
        "secret": Option(Form.SECRET, _SECRET, needed=True, fault=fault_of_secret),
        "former_secret": Option(Form.SECRET, _SECRET, fault=fault_of_secret),
        "plain_http": PLAIN_HTTP,
        "timeout": Option(Form.LENGTH, "a time such as 20 s, 1 s to 60 s", default=20.0, least=1, most=60),
    },
    _open,
)
