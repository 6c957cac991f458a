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
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError, NotFoundError

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.envelope import STRUCTURED, Envelope
from meter_mw.sinks.kinds import TIMEOUT, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.private_loop import PrivateLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from nats.aio.msg import Msg

_log = logging.getLogger("meter_mw.sinks")

_WINDOW = 120.0
"""The `duplicate_window` of a stream that says nothing else, in seconds."""

_MARGIN = 1.0
_PATIENCE = 2.0
_TOO_LARGE = 10054
_NOBODY = "503"
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_SCHEMES = ("nats", "tls")
# What a header value may hold as it is.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_DOOR = ("authorization violation", "authentication", "permissions violation", "user authentication expired")


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    error: _Error | None = None
    duplicate: bool = False


_decoder = msgspec.json.Decoder(_PubAck)


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
        self._loop: PrivateLoop | None = None
        self._client: Client | None = None
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._inbox = ""
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"NatsSink({self._place!r}, {self._subject!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Publish the batch, and wait for the answer to each message."""
        if not batch:
            return []
        try:
            client = self._connected()
        except (OSError, nats.errors.Error) as failure:
            self.close()
            return [self._not_connected(failure)] * len(batch)
        try:
            outcomes: list[Outcome] = self._in_loop(self._publish_all(client, batch), self._timeout + _MARGIN)
        except OSError:  # TimeoutError among them
            outcomes = [Unknown(f"nats at {self._place}: no answer")] * len(batch)
        if any(isinstance(each, Unknown) for each in outcomes):
            self.close()
        return outcomes

    def close(self) -> None:
        """Close the connection and end the loop; the next batch begins anew."""
        self._disown()
        loop, client = self._loop, self._client
        self._loop = self._client = None
        if loop is None:
            return
        if client is not None:
            with contextlib.suppress(Exception):  # of a connection that is of no use any more
                loop.result(_shut(client), _MARGIN)
        loop.stop()

    def _disown(self) -> None:
        """Leave what is the parent's alone. Never freed here: they hold an epoll that is the parent's too."""
        if self._pid != os.getpid():
            _inherited.append((self._loop, self._client))
            self._loop = self._client = None
            self._pid = os.getpid()

    def _connected(self) -> Client:
        self._disown()
        if self._client is not None and not self._client.is_connected:
            self.close()
        if self._client is None:
            self._loop = self._loop or PrivateLoop()
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
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._hear)
            self.horizon = await self._window(client)
        except BaseException:
            await _shut(client)
            raise
        return client

    async def _window(self, client: Client) -> float:
        """Read for how long the stream knows ids."""
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
        """Publish all before the first answer is waited for."""
        self._waiting = {}
        asked = [await self._publish(client, number, payload) for number, payload in enumerate(batch)]
        if self._waiting:
            await asyncio.wait(list(self._waiting.values()), timeout=self._timeout)
        answers = [self._answer(each) if isinstance(each, asyncio.Future) else (each, "") for each in asked]
        trouble = next((text for _, text in answers if text), None)
        if trouble:
            _log.error("%r: %s; events wait", self, trouble)
        return [outcome for outcome, _ in answers]

    async def _publish(self, client: Client, number: int, payload: bytes) -> asyncio.Future[Msg] | Outcome:
        envelope = Envelope.of(payload)
        if envelope is None:
            return Permanent("is no CloudEvent")
        headers = {"Nats-Msg-Id": quote(envelope.id, safe=_SAFE), "Content-Type": STRUCTURED}
        answer = asyncio.get_running_loop().create_future()
        self._waiting[str(number)] = answer
        try:
            await client.publish(self._subject, payload, reply=f"{self._inbox}.{number}", headers=headers)
        except nats.errors.MaxPayloadError:
            del self._waiting[str(number)]
            return Permanent(f"nats: {len(payload)} bytes are more than the server takes")
        except (nats.errors.Error, OSError):
            answer.cancel()
        return answer

    async def _hear(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _give_up(self) -> None:
        """Wait no longer for answers on a connection that is closed."""
        for answer in self._waiting.values():
            answer.cancel()

    def _answer(self, answer: asyncio.Future[Msg]) -> tuple[Outcome, str]:
        """Give the outcome of an event, and what an operator has to mend, if anything."""
        if not answer.done() or answer.cancelled():
            return Unknown(f"nats at {self._place}: no answer"), ""
        message = answer.result()
        if (message.headers or {}).get("Status") == _NOBODY:
            return Retry(reason=f"nats: no stream listens on {self._subject}"), _no_stream(self._subject)
        try:
            ack = _decoder.decode(message.data)
        except msgspec.MsgspecError:
            return Unknown(f"nats at {self._place}: an answer that cannot be read"), ""
        if ack.error is None:
            return (Duplicate() if ack.duplicate else Delivered()), ""
        text = f"nats refused: {ack.error.err_code} {ack.error.description:.200}"
        if ack.error.err_code == _TOO_LARGE:
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
