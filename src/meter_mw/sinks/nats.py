"""The `nats` sink: usage events as messages of a JetStream stream, which knows their ids for a while.

CloudEvents 1.0.2, NATS binding (3): a message is the whole event in JSON. Its id is `Nats-Msg-Id` too,
by which the stream drops a second copy. An event is delivered when the stream has stored it (PubAck).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError
from nats.js.errors import Error as JetStreamError

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.envelope import STRUCTURED, Envelope
from meter_mw.sinks.kinds import TIMEOUT, Form, Option, Service, Settings, SinkKind

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future

_log = logging.getLogger("meter_mw.sinks")

_WINDOW = 120.0
"""The `duplicate_window` of a stream that says nothing else, in seconds."""

_GIVEN_UP = Unknown("nats: the connection was closed before the answer")
_MARGIN = 1.0
_PATIENCE = 2.0
_TOO_LARGE = 10054
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_SCHEMES = ("nats", "tls")
# What a header value may hold as it is.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_DOOR = ("authorization violation", "authentication", "permissions violation", "user authentication expired")


class _Loop:
    """An event loop in a thread of its own, for callers that block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="meter-mw-nats-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def result(self, work: Coroutine[Any, Any, Any], timeout: float) -> Any:
        """Have work done; raises `TimeoutError` when it takes longer, and cancels it."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_MARGIN)


class NatsSink:
    """Publishes batches on one subject, all at once, and waits for the stream's answers.

    `timeout` bounds a batch in seconds. `horizon` is the stream's `duplicate_window`, read at each
    connect. Raises `ValueError` for servers or a subject that cannot be used.
    """

    max_batch = 500

    def __init__(
        self,
        servers: str,
        subject: str,
        *,
        timeout: float = 10.0,
        username: str | None = None,
        secret: str | None = None,
        name: str | None = None,
    ) -> None:
        fault = _fault_of_servers(servers) or _fault_of_subject(subject)
        if fault:
            raise ValueError(fault)
        self._servers = [each.strip() for each in servers.split(",")]
        self._subject = subject
        self._timeout = timeout
        self._login: dict[str, str] = {}
        if secret is not None:
            self._login = {"user": username, "password": secret} if username else {"token": secret}
        elif username is not None:
            raise ValueError("a username goes together with a secret")
        self.horizon: float | None = _WINDOW
        self._place = ",".join(urlsplit(each).netloc.rpartition("@")[2] for each in self._servers)
        self.name = name or f"nats:{self._place}/{subject}"
        self._loop: _Loop | None = None
        self._client: Client | None = None
        self._publishing: list[asyncio.Task[tuple[Outcome, str]]] = []
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"NatsSink({self._place!r}, {self._subject!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Publish the batch, and wait for the answer to each message."""
        if not batch:
            return []
        try:
            client = self._connected()
        except (OSError, nats.errors.Error, TimeoutError, asyncio.CancelledError) as failure:
            self.close()
            return [self._not_connected(failure)] * len(batch)
        try:
            outcomes: list[Outcome] = self._in_loop(self._publish_all(client, batch), self._timeout + _MARGIN)
        except (TimeoutError, asyncio.CancelledError):
            outcomes = [Unknown(f"nats at {self._place}: no answer")] * len(batch)
        if any(isinstance(each, Unknown) for each in outcomes):
            self.close()
        return outcomes

    def close(self) -> None:
        """Close the connection and end the loop; the next batch begins anew."""
        loop, client = self._loop, self._client
        self._loop = self._client = None
        if loop is None or self._pid != os.getpid():
            return
        if client is not None:
            with contextlib.suppress(Exception):  # of a connection that is of no use any more
                loop.result(_shut(client), _MARGIN)
        loop.stop()

    def _connected(self) -> Client:
        if self._pid != os.getpid():
            # Never freed here: what they hold, an epoll among it, is the parent's too.
            _inherited.append((self._loop, self._client))
            self._loop = self._client = None
            self._pid = os.getpid()
        if self._client is not None and not self._client.is_connected:
            self.close()
        if self._client is None:
            self._loop = self._loop or _Loop()
            self._client = self._in_loop(self._connect(), self._timeout)
        return self._client

    def _in_loop(self, work: Coroutine[Any, Any, Any], timeout: float) -> Any:
        if self._loop is None:
            work.close()
            raise ConnectionError("closed meanwhile")
        return self._loop.result(work, timeout)

    async def _connect(self) -> Client:
        client = Client()
        try:
            await client.connect(
                self._servers,
                allow_reconnect=False,
                connect_timeout=max(1, int(self._timeout)),
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                name="meter-mw",
                error_cb=_note,
                closed_cb=self._give_up,
                **self._login,  # type: ignore[arg-type]  # texts, each for a parameter of that type
            )
            self.horizon = await self._window(client)
        except BaseException:
            await _shut(client)
            raise
        return client

    async def _window(self, client: Client) -> float:
        """Read for how long the stream knows ids; this also opens the inbox that answers come to."""
        jetstream = client.jetstream(timeout=min(self._timeout, _PATIENCE))
        try:
            stream = await jetstream.find_stream_name_by_subject(self._subject)
            found = (await jetstream.stream_info(stream)).config.duplicate_window
        except (nats.errors.Error, TimeoutError) as failure:
            if not isinstance(failure, NotFoundError | NoStreamResponseError):
                _log.warning(
                    "%r: its stream does not say how long it knows ids (%s); taken for %.0f s",
                    self,
                    type(failure).__name__,
                    _WINDOW,
                )
            return _WINDOW
        return float(found) or _WINDOW

    async def _publish_all(self, client: Client, batch: Sequence[bytes]) -> list[Outcome]:
        self._publishing = [asyncio.create_task(self._publish(client, payload)) for payload in batch]
        answers = await asyncio.gather(*self._publishing, return_exceptions=True)
        outcomes = [each if isinstance(each, tuple) else (_GIVEN_UP, "") for each in answers]
        troubles = [text for _, text in outcomes if text]
        if troubles:
            _log.error("%r: %s; events wait", self, troubles[0])
        return [outcome for outcome, _ in outcomes]

    async def _give_up(self) -> None:
        """Wait no longer for answers on a connection that is closed."""
        for task in self._publishing:
            task.cancel()

    async def _publish(self, client: Client, payload: bytes) -> tuple[Outcome, str]:
        """Publish one event; give its outcome, and what an operator has to mend, if anything."""
        envelope = Envelope.of(payload)
        if envelope is None:
            return Permanent("is no CloudEvent"), ""
        headers = {"Nats-Msg-Id": quote(envelope.id, safe=_SAFE), "Content-Type": STRUCTURED}
        try:
            answer = await client.jetstream().publish(
                self._subject, payload, timeout=self._timeout, headers=headers
            )
        except nats.errors.MaxPayloadError:
            return Permanent(f"nats: {len(payload)} bytes are more than the server takes"), ""
        except NoStreamResponseError:
            return Retry(reason=f"nats: no stream listens on {self._subject}"), _no_stream(self._subject)
        except APIError as refusal:
            return self._refused(refusal)
        except (nats.errors.Error, JetStreamError, OSError, TimeoutError, asyncio.CancelledError) as failure:
            return Unknown(f"nats at {self._place}: no answer: {type(failure).__name__}"), ""
        return (Duplicate() if answer.duplicate else Delivered()), ""

    def _refused(self, refusal: APIError) -> tuple[Outcome, str]:
        text = f"nats refused: {refusal.err_code} {refusal.description!s:.200}"
        if refusal.err_code == _TOO_LARGE:
            return Permanent(text), ""
        return Retry(reason=text), text

    def _not_connected(self, failure: BaseException) -> Retry:
        text = f"nats at {self._place} cannot be reached: {failure!s:.200} ({type(failure).__name__})"
        if any(word in str(failure).lower() for word in _DOOR):
            _log.error("%r: %s: check its secret and its rights; events wait", self, text)
        return Retry(reason=text)


_inherited: list[object] = []


async def _note(failure: Exception) -> None:
    _log.debug("nats: %s: %s", type(failure).__name__, failure)


async def _shut(client: Client) -> None:
    """End a connection without the farewells that a dead one would wait for."""
    with contextlib.suppress(Exception):  # of a connection that is of no use any more
        await asyncio.wait_for(client.close(), _MARGIN)


def _no_stream(subject: str) -> str:
    return (
        f"no stream listens on {subject}; make one, such as"
        f" `nats stream add USAGE --subjects={subject} --storage=file --dupe-window=24h --defaults`"
    )


def _fault_of_servers(servers: str) -> str | None:
    for each in servers.split(","):
        try:
            parts = urlsplit(each.strip())
            known = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known:
            return (
                "a server is named as nats://host:4222 or tls://host:4222, several with commas between them"
            )
        if "@" in parts.netloc:
            return "the URL has credentials in it, which logs would show; use username and secret"
    return None


def _fault_of_subject(subject: str) -> str | None:
    if len(subject) <= 255 and subject.isprintable() and _SUBJECT.fullmatch(subject):
        return None
    return "a subject is words with dots between them, such as meter.events, without * and >"


def _open(settings: Settings, _: Service) -> NatsSink:
    return NatsSink(
        settings.text("nats"),
        settings.text("subject"),
        timeout=settings.seconds("timeout"),
        username=settings.get_text("username"),
        secret=settings.get_text("secret"),
    )


KIND = SinkKind(
    "nats",
    Option(Form.TEXT, "servers such as nats://nats-1:4222", needed=True, fault=_fault_of_servers),
    {
        "subject": Option(Form.TEXT, "a subject such as meter.events", needed=True, fault=_fault_of_subject),
        "username": Option(Form.TEXT, "a name to log in by"),
        "secret": Option(Form.SECRET, "a password or a token by reference: ${NATS_TOKEN}"),
        "timeout": TIMEOUT,
    },
    _open,
)
