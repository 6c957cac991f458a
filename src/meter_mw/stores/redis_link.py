"""How we speak to a Redis server: when a call is sent again, when nobody is asked, what failures are called.

Rule 1: no I/O here; `converse` yields round trips and is sent replies, or the exception that came instead.
Rule 2: a lost connection leaves the outcome unknown, so the same calls go out again, at most twice; a
silence has used up the caller's patience and is not repeated.
Rule 3: an error's text and its causes hold no password, and so no frame of a handshake.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, TypeGuard
from urllib.parse import urlsplit

from redis import exceptions as redis_errors
from redis.asyncio.connection import SSLConnection as TlsConnection
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.retry import Retry

from meter_mw.stores.echoes import SIZE, is_stray
from meter_mw.stores.memory import system_clock_us
from meter_mw.stores.port import NotAsked, Refusal, StoreUnavailable
from meter_mw.stores.redis_protocol import Call, ScriptCall, with_script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio.connection import RedisSSLContext

CONNECTIONS = 50
"""Connections that one process opens at most for its threads, unless its URL says `max_connections`."""

BATCH = 100
"""Closings in one round trip."""

FAILURES = (redis_errors.RedisError, OSError)
"""What a round trip may end in, timeouts included."""

Errors: TypeAlias = tuple[type[redis_errors.ResponseError], ...]
"""Kinds of error replies."""

REDIRECTIONS: Errors = (
    redis_errors.MovedError,
    redis_errors.AskError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
)
"""What the node of a cluster replies where it has not got what is asked."""

_RESENDS = 2
_MOST_TRIPS = 8
_SCHEMES = {"valkey": "redis", "valkeys": "rediss", "redis+unix": "unix"}
_NOT_YET = ("redis+sentinel",)
_OURS = {"retry_on_timeout", "retry_on_error", "retry", "socket_timeout", "socket_connect_timeout", "timeout"}
_OURS |= {"health_check_interval", "protocol", "legacy_responses", "decode_responses", "max_connections"}

# What redis-py would say of itself at each connect: redis-py 8 has one name for it, 6 and 7 have two.
_QUIET: dict[str, object] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


class Transport(Enum):
    """What a connection runs over."""

    TCP = "tcp"
    TLS = "tls"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and how to enter: `place` may be shown, `options` may not.

    `tls` is made once: loading the system's certificates takes longer than a decision may.
    """

    transport: Transport
    place: str
    connections: int
    options: dict[str, object] = field(repr=False)
    tls: RedisSSLContext | None = field(default=None, repr=False)


def read_url(url: str, connections: int | None = None) -> Address:
    """Read the URL of a Redis or Valkey; retries, timeouts and the protocol are ours and not its."""
    scheme = url.partition("://")[0]
    if scheme in _NOT_YET:
        raise ValueError(f"{scheme}:// is not supported yet")
    if scheme not in {"redis", "rediss", "unix", *_SCHEMES}:
        raise ValueError(
            f"a store is redis, rediss, valkey, valkeys, unix or redis+unix, got {scheme!r:.20}://"
        )
    try:
        options = parse_url(_SCHEMES.get(scheme, scheme) + url[len(scheme) :])  # type: ignore[no-untyped-call]  # of redis-py
    except ValueError:
        options = None
    if options is None:  # said outside of the handler: the error could quote a password
        raise ValueError(f"this {scheme}:// URL cannot be read; is its password percent-encoded?")
    kind = options.pop("connection_class", None)
    transport = (
        Transport.UNIX
        if kind is UnixDomainSocketConnection
        else Transport.TLS
        if kind is SSLConnection
        else Transport.TCP
    )
    place = urlsplit(url).path if transport is Transport.UNIX else _host_and_port(options)
    most = connections or options.get("max_connections") or CONNECTIONS
    kept = {name: value for name, value in options.items() if name not in _OURS}
    kept |= {"protocol": 2, "retry": Retry(NoBackoff(), 0), "health_check_interval": 0, **_QUIET}
    if transport is Transport.TLS:
        return Address(transport, place, most, kept, _tls(kept))
    _check(UnixDomainSocketConnection if transport is Transport.UNIX else Connection, kept)
    return Address(transport, place, most, kept)


def _check(kind: Callable[..., object], options: dict[str, object]) -> None:
    """Refuse options that no connection knows, before anything is asked."""
    try:
        kind(**options)
    except TypeError as error:
        raise ValueError(f"an option of the store's URL is not known: {error}") from None


def greeting(address: Address) -> list[Call]:
    """Give what is said first on a connection: who we are, and which database is ours."""
    options = {name: str(value) for name, value in address.options.items() if value}
    calls: list[Call] = []
    if "password" in options or "username" in options:
        user = (options["username"],) if "username" in options else ()
        calls.append(("AUTH", *user, options.get("password", "")))
    if "client_name" in options:
        calls.append(("CLIENT", "SETNAME", options["client_name"]))
    if "db" in options:
        calls.append(("SELECT", options["db"]))
    return calls


def _tls(options: dict[str, object]) -> RedisSSLContext:
    """Read the certificates that the options name; both kinds of connection share them."""
    try:
        tls = TlsConnection(**options).ssl_context  # type: ignore[arg-type]  # its own checks follow
        tls.get()
    except (TypeError, ValueError, OSError, redis_errors.RedisError) as error:
        problem = str(error)
    else:
        return tls
    raise ValueError(f"the TLS options of the store's URL do not work: {problem}")


def _host_and_port(options: dict[str, object]) -> str:
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


class StoreClock:
    """The best guess at the store's time: this machine's, put right by every reply, whoever has asked."""

    def __init__(self, local: Callable[[], int] = system_clock_us) -> None:
        self.local = local
        self._ahead_us = 0

    def now_us(self) -> int:
        """Guess."""
        return self.local() + self._ahead_us

    def learn(self, now_us: int, sent_us: int) -> None:
        """Learn that the store's clock read `now_us`, somewhere between `sent_us` of ours and now.

        A guess that agrees is kept, so a slow reply does not spoil what a quick one has taught.
        """
        self._ahead_us = min(max(self._ahead_us, now_us - self.local()), now_us - sent_us)


class Leave(Enum):
    """How a caller is let through a breaker."""

    FREELY = "freely"
    AS_PROBE = "as probe"


class Breaker:
    """Spares callers the wait for a server that has gone silent.

    The first silence opens it. Then one caller at a time goes through as a probe, the first at once, the
    next 0.2 s after a silent one, then 0.4 s, 0.8 s, and 1 s apart; all others fail without waiting. Any
    answer closes it.
    """

    FIRST_HOLD = 0.2
    LONGEST_HOLD = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open = False
        self._probing = False
        self._hold = 0.0
        self._shut_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether callers are spared; while it is shut, all go through freely."""
        return self._open

    def enter(self) -> Leave | None:
        """Ask whether to try."""
        if not self._open:
            return Leave.FREELY
        with self._lock:
            if not self._open:
                return Leave.FREELY
            if self._probing or self._clock() < self._shut_until:
                return None
            self._probing = True
            return Leave.AS_PROBE

    def give_up(self, leave: Leave) -> None:
        """Say that a try ended without telling anything: its caller was cancelled."""
        if leave is Leave.AS_PROBE:
            with self._lock:
                self._probing = False

    def answered(self) -> None:
        """Say that the server answered, or refused at once."""
        if self._open:
            with self._lock:
                self._open = self._probing = False
                self._hold = 0.0

    def silent(self, leave: Leave) -> None:
        """Say that the server did not answer."""
        with self._lock:
            if leave is Leave.AS_PROBE:
                self._probing = False
                self._hold = min(self.LONGEST_HOLD, self._hold * 2 or self.FIRST_HOLD)
                self._shut_until = self._clock() + self._hold
            elif not self._open:
                self._open = True
                self._shut_until = 0.0


class Crowded(OSError):
    """Nothing was asked, as too many wait already: no connection came free in time, or one is full."""


class Strayed(redis_errors.ConnectionError):
    """What came was not for us: nothing on this connection is to be believed any more."""


class Unreached(redis_errors.ConnectionError):
    """Nothing was asked, as no connection came about."""


def unreached(failure: Exception) -> Exception:
    """Give the failure of a connection that is being opened; a loss then is known to have asked nothing."""
    return Unreached(str(failure)) if _is_loss(failure) else failure


@dataclass(frozen=True, slots=True)
class Trip:
    """One round trip: calls that go out together, on a new connection where the old ones are doubted."""

    calls: tuple[Call, ...]
    fresh: bool = False


Talk: TypeAlias = Generator[Trip, "Sequence[object] | Exception", list[object]]
"""Yields round trips; is sent the replies, error replies among them, or the exception that came instead."""


def converse(
    calls: Sequence[Call],
    place: str,
    breaker: Breaker,
    *,
    urgent: bool,
    values: Errors = (),
    leave: Leave | None = None,
) -> Talk:
    """Have all of `calls` answered, or raise StoreUnavailable; `urgent` ones fail at an open breaker.

    Error replies of the kinds in `values` are replies like any other. `leave` is that of a caller who has
    made the first trip already.
    """
    leave = leave or breaker.enter() or (None if urgent else Leave.FREELY)
    if leave is None:
        raise NotAsked(f"redis at {place} has stopped answering, and is given a moment")
    told = False
    try:
        replies, failure, asked = yield from _trips(calls)
        if values and isinstance(failure, values):
            others = (each for each in replies if not isinstance(each, values))
            failure = next((each for each in others if isinstance(each, Exception)), None)
        told = not isinstance(failure, Crowded)
        if _is_silence(failure):
            breaker.silent(leave)
        elif told:
            breaker.answered()
    finally:
        if not told:
            breaker.give_up(leave)
    if failure is not None:
        refusal = failure if replies and isinstance(failure, redis_errors.ResponseError) else None
        kind = Refusal if refusal else StoreUnavailable if asked else NotAsked
        raise kind(f"redis at {place} {_words(failure, refusal)}") from refusal
    return replies


def are_answers(
    answer: Sequence[object] | Exception | None, calls: Sequence[Call]
) -> TypeGuard[list[object]]:
    """Say whether a first trip was answered by the script, all of it: a conversation would add nothing."""
    if not isinstance(answer, list):
        return False
    for call, reply in zip(calls, answer, strict=True):
        if not isinstance(call, ScriptCall) or type(reply) is not bytes or reply[-SIZE:] != call.echo:
            return False
    return True


def _trips(
    calls: Sequence[Call],
) -> Generator[Trip, Sequence[object] | Exception, tuple[list[object], Exception | None, bool]]:
    """Send, and send again what may be sent again; give the replies and the first that is an error.

    No replies, and the exception, where none came; and whether anything may have been asked.
    """
    asked = False
    replies: list[object] = [None] * len(calls)
    waiting = dict(enumerate(calls))
    losses, fresh = 0, False
    for _ in range(_MOST_TRIPS):
        answer = yield Trip(tuple(waiting.values()), fresh)
        if not isinstance(answer, Exception) and any(map(is_stray, waiting.values(), answer)):
            answer = Strayed("what came is the answer to another call")
        if isinstance(answer, Exception):
            losses += 1
            asked = asked or not isinstance(answer, Unreached | Crowded)
            if losses > _RESENDS or not _is_loss(answer):
                return [], answer, asked
            fresh = True
            continue
        asked = True
        demoted = lost_script = False
        for index, reply in zip(tuple(waiting), answer, strict=True):
            replies[index] = reply
            if isinstance(reply, redis_errors.NoScriptError):
                # The first brings the script along, and the others behind it find it there.
                waiting[index] = calls[index] if lost_script else with_script(calls[index])
                lost_script = True
            elif isinstance(reply, redis_errors.ReadOnlyError) and not fresh:
                demoted = True
            else:
                del waiting[index]
        fresh = demoted
        if not waiting:
            break
    return replies, next((each for each in replies if isinstance(each, Exception)), None), asked


def refused(refusal: redis_errors.ResponseError, place: str) -> Refusal:
    """Say in our words that a server answered a command with an error."""
    return Refusal(f"redis at {place} {_words(refusal, refusal)}")


def unavailable(failure: Exception, place: str) -> StoreUnavailable:
    """Say in our words why a server did not answer."""
    return StoreUnavailable(f"redis at {place} {_words(failure, None)}")


def _is_silence(failure: Exception | None) -> bool:
    return isinstance(failure, TimeoutError | redis_errors.TimeoutError)


def _is_loss(failure: Exception) -> bool:
    """Whether the connection went away, so that another may do better."""
    answers = (
        redis_errors.AuthenticationError,
        redis_errors.AuthorizationError,
        redis_errors.BusyLoadingError,
    )
    if _is_silence(failure) or isinstance(failure, (*answers, Crowded)):
        return False
    return isinstance(failure, redis_errors.ConnectionError | OSError)


def _words(failure: Exception, refusal: redis_errors.ResponseError | None) -> str:
    """Say what happened; a server's words about a handshake could quote it, so they are left out."""
    if refusal is not None and "unauthenticated" in str(refusal):
        return "wants a password, and its URL gives none"
    if refusal is not None:
        return f"refused: {getattr(refusal, 'status_code', None) or ''} {refusal}".replace("  ", " ")
    if isinstance(failure, Crowded):
        return f"was not asked: {failure}"
    if _is_silence(failure):
        return "did not answer in time"
    if isinstance(failure, redis_errors.BusyLoadingError) or _is_loss(failure):
        return f"cannot be reached: {failure}"
    return f"refused us at the door ({type(failure).__name__})"
