"""Calls to one Redis over one kept connection, and what is known of a call that failed.

Rule 1: nothing is sent twice here: whoever calls knows what may be.
Rule 2: in a cluster, all keys of a line are in one slot, and a line follows that slot to its node.
Rule 3: an error's text holds no password, and so no word of a handshake.
"""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCHEMES = {"valkey": "redis", "valkeys": "rediss", "redis+unix": "unix", "redis+cluster": "redis"}
_SCHEMES |= {"rediss+cluster": "rediss", "valkey+cluster": "redis", "valkeys+cluster": "rediss"}
SCHEMES = ("redis", "rediss", "unix", *_SCHEMES)
"""What the URL of a Redis may begin with."""

_MOST_MOVES = 5
_OURS = {"retry_on_timeout", "retry_on_error", "retry", "socket_timeout", "socket_connect_timeout", "timeout"}
_OURS |= {"health_check_interval", "protocol", "decode_responses", "max_connections", "connection_class"}
# What redis-py would say of itself at each connect: redis-py 8 has one name for it, 6 and 7 have two.
_QUIET: dict[str, object] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
# Answers after which another connection, or another node, may do better.
_INNER = re.compile(r"(?<![A-Za-z])-?(READONLY|OOM|WRONGTYPE|NOPERM|MISCONF|MASTERDOWN|NOREPLICAS)\b")
_ELSEWHERE = ("READONLY", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "NOAUTH")


class NotAsked(ConnectionError):
    """The call was not carried out: it was never sent, or the server had no time for it."""


class Unanswered(ConnectionError):
    """The call was sent and no answer came: it may have been carried out."""


class Refused(Exception):
    """The server answered with an error, and `word` is its kind, such as OOM or WRONGTYPE."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # Before Redis 7 the error of a call in a script comes wrapped into an ERR of the script's.
        inner = _INNER.search(text) if text.startswith("ERR ") else None
        self.word = inner[1] if inner else text.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, known to servers by the digest of its text."""

    text: str = field(repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the digest."""
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


class RedisLine:
    """A line to the server of a URL, opened at the first call. Used by one thread at a time.

    `timeout` bounds each wait in seconds. `openings` counts the connections: after another one, the
    server may be another, or an older copy. Raises `ValueError` for a URL that cannot be used.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._seeds = _read(url, timeout)
        self._target = self._seeds[0]
        self._turn = 0
        self._connection: AbstractConnection | None = None
        self.place = _place(url)
        self.openings = 0

    def __repr__(self) -> str:
        return f"RedisLine({self.place!r})"

    def call(self, *words: object) -> object:
        """Make a call, and give its reply. Raises NotAsked, Unanswered or Refused."""
        asking = False
        for _ in range(_MOST_MOVES):
            connection = self._connected()
            try:
                if asking:
                    self._exchange(connection, ("ASKING",))
                return self._exchange(connection, words)
            except errors.AskError as told:  # for this call alone, unless it is a MovedError
                asking = not isinstance(told, errors.MovedError)
                self._follow(told)
        raise NotAsked(f"redis at {self.place} sends us from node to node")

    def run(self, script: Script, keys: Sequence[object], arguments: Sequence[object]) -> object:
        """Run a script; see `call`."""
        try:
            return self.call("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except Refused as refusal:
            if refusal.word != "NOSCRIPT":
                raise
        return self.call("EVAL", script.text, len(keys), *keys, *arguments)

    def connect(self) -> None:
        """Open the connection, if it is not. Raises NotAsked."""
        self._connected()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.disconnect()  # type: ignore[no-untyped-call]  # of redis-py
            self._connection = None

    def _connected(self) -> AbstractConnection:
        if self._connection is not None and self._is_sound(self._connection):
            return self._connection
        self.close()
        kind = self._target["kind"]
        options = {name: value for name, value in self._target.items() if name != "kind"}
        connection: AbstractConnection = kind(**options)  # type: ignore[operator]  # a class of redis-py's
        try:
            connection.connect()  # type: ignore[no-untyped-call]  # of redis-py
        except (errors.AuthenticationError, errors.ResponseError) as refusal:
            self._turn_away()
            text = f"redis at {self.place} refused us at the door ({type(refusal).__name__})"
        except (errors.RedisError, OSError) as failure:
            self._turn_away()
            text = f"redis at {self.place} cannot be reached: {failure}"
        else:
            self._connection = connection
            self.openings += 1
            return connection
        connection.disconnect()  # type: ignore[no-untyped-call]  # of redis-py
        raise NotAsked(text)

    def _is_sound(self, connection: AbstractConnection) -> bool:
        """Whether a kept connection is this process' and the server has neither ended it nor spoken on it."""
        if connection.pid != os.getpid():
            return False
        try:
            return not connection.can_read(0)
        except (errors.RedisError, OSError):
            return False

    def _exchange(self, connection: AbstractConnection, words: Sequence[object]) -> object:
        try:
            connection.send_command(*words)  # type: ignore[no-untyped-call]  # of redis-py
            return connection.read_response()
        except errors.AskError:
            raise
        except errors.BusyLoadingError:
            self._turn_away()
            text = "is loading its data"
        except errors.ResponseError as refusal:
            raise self._refusal(refusal) from None
        except (errors.RedisError, OSError) as failure:
            self._turn_away()
            raise Unanswered(f"redis at {self.place} did not answer: {type(failure).__name__}") from None
        raise NotAsked(f"redis at {self.place} {text}")

    def _refusal(self, refusal: errors.ResponseError) -> Exception:
        # redis-py takes the kind off some errors, and keeps it by a class of their own.
        kind = getattr(refusal, "status_code", None) or _KINDS.get(type(refusal), "")
        text = str(refusal)
        error = Refused(text if not kind or text.startswith(kind) else f"{kind} {text}")
        if error.word in _ELSEWHERE:
            self._turn_away()
        return error

    def _follow(self, told: errors.AskError) -> None:
        self.close()
        self._target = self._target | {"host": told.host or self._target["host"], "port": told.port}

    def _turn_away(self) -> None:
        """Leave this node; the next that is asked is the next of those that the URL names."""
        self.close()
        self._turn += 1
        self._target = self._seeds[self._turn % len(self._seeds)]


_KINDS: dict[type[Exception], str] = {
    errors.OutOfMemoryError: "OOM",
    errors.NoScriptError: "NOSCRIPT",
    errors.ReadOnlyError: "READONLY",
    errors.NoPermissionError: "NOPERM",
    errors.ClusterDownError: "CLUSTERDOWN",
    errors.MasterDownError: "MASTERDOWN",
    errors.TryAgainError: "TRYAGAIN",
    errors.ClusterCrossSlotError: "CROSSSLOT",
}


def companion(key: str, name: str) -> str:
    """Name a key that belongs to another and is in the same slot of a cluster."""
    tagged = "{" in key and key.find("}", key.find("{")) > key.find("{") + 1
    return f"{key}:{name}" if tagged else f"{{{key}}}:{name}"


def fault_of_url(url: str) -> str | None:
    """Say what keeps a URL from being that of a Redis; None where nothing does."""
    try:
        RedisLine(url, 1.0)
    except ValueError as fault:
        return str(fault)
    return None


def fault_of_key(key: str) -> str | None:
    """Say what keeps a text from being the name of a key that others can belong to."""
    if not key.isprintable() or " " in key or not 0 < len(key) <= 200:
        return "the name of a stream has 1 to 200 characters without spaces"
    if ("{" in key or "}" in key) and (key.count("{"), key.count("}")) != (1, 1):
        return "the name of a stream has one {tag} at most"
    if "{" in key and key.find("}") <= key.find("{") + 1:
        return "the {tag} in the name of a stream is empty"
    return None


def _read(url: str, timeout: float) -> list[dict[str, object]]:
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"a Redis is {', '.join(SCHEMES)}, got {scheme!r:.20}://")
    ends = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    user, at, hosts = rest[:ends].rpartition("@")
    several = hosts.split(",") if scheme.endswith("+cluster") else [hosts]
    plain = _SCHEMES.get(scheme, scheme)
    return [_options(f"{plain}://{user}{at}{host}{rest[ends:]}", scheme, timeout) for host in several]


def _options(url: str, scheme: str, timeout: float) -> dict[str, object]:
    try:
        read = parse_url(url)  # type: ignore[no-untyped-call]  # of redis-py
    except ValueError:
        read = None
    if read is None:  # said outside of the handler: the error could quote a password
        raise ValueError(f"this {scheme}:// URL cannot be read; is its password percent-encoded?")
    kind = read.get("connection_class", Connection)
    kept = {name: value for name, value in read.items() if name not in _OURS}
    if scheme.endswith("+cluster") and kept.get("db"):
        raise ValueError("a cluster has one database, and its URL names none")
    if kind is not UnixDomainSocketConnection:
        kept = {"host": "localhost", "port": 6379, **kept}
    kept |= {"protocol": 2, "retry": Retry(NoBackoff(), 0), "health_check_interval": 0, **_QUIET}
    kept |= {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    try:
        kind(**kept)
    except TypeError as error:
        raise ValueError(f"an option of the URL is not known: {error}") from None
    return {"kind": kind, **kept}


def _place(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path
