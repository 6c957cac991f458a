"""Who may see the pages: those who know the token, or without one whoever sits at this machine. Pure.

Rule 1: without a token only the loopback address is answered, under a name of this machine, and not through
        a proxy. A page of another site that has its own name lead here (DNS rebinding) is refused by that.
Rule 2: a token is compared in constant time. A browser gives it once, as a form, and has a cookie for it
        that says until when it holds and is signed with the token: who reads it has no token.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING

from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Mapping

COOKIE = "meter_mw_dashboard"
COOKIE_S = 12 * 3600
"""How long a browser need not be asked again."""

SHORTEST = 16
"""Characters of a token, below which it may be guessed."""

_LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
_BY_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_PURPOSE = b"meter_mw dashboard cookie"


class Access(Enum):
    """Whether one who asks may see a page."""

    GRANTED = auto()
    UNKNOWN = auto()
    """It has not shown the token."""
    DISTANT = auto()
    """There is no token, and it is not at this machine."""
    MISNAMED = auto()
    """It is at this machine, and calls it by a name that is not its own."""
    FORWARDED = auto()
    """A proxy brought it here, so where it is cannot be told."""


@dataclass(frozen=True, slots=True)
class Door:
    """Decides who comes in; `token` is None where only this machine may."""

    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a token that is guessed, or that no header field can carry."""
        if self.token is None:
            return
        if len(self.token) < SHORTEST or not (self.token.isascii() and self.token.isprintable()):
            raise MeterError(
                f"the token of the dashboard has {len(self.token)} characters;"
                f" expected {SHORTEST} or more, all of them printable ASCII"
            )

    def asked(
        self, client: str | None, headers: Mapping[str, str], cookie: str | None, now_s: float
    ) -> Access:
        """Decide about one who asks from an address, with these header fields and this cookie."""
        if self.token is not None:
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            knows = scheme.lower() == "bearer" and self.knows(shown.strip())
            return Access.GRANTED if knows or self._sealed(cookie, now_s) else Access.UNKNOWN
        if client is None or not is_loopback(client):
            return Access.DISTANT
        if any(name in headers for name in _BY_PROXIES):
            return Access.FORWARDED
        return Access.GRANTED if _name(headers.get("host", "")) in _LOCAL_NAMES else Access.MISNAMED

    def knows(self, shown: str) -> bool:
        """Say whether this is the token."""
        return self.token is not None and hmac.compare_digest(shown.encode(), self.token.encode())

    def cookie(self, now_s: float) -> str:
        """Give what a browser shows in place of the token, for a while."""
        until = str(int(now_s) + COOKIE_S)
        return f"{until}.{self._seal(until)}"

    def _sealed(self, cookie: str | None, now_s: float) -> bool:
        until, _, seal = (cookie or "").partition(".")
        is_ours = hmac.compare_digest(seal.encode(), self._seal(until).encode())
        return is_ours and now_s < int(until)

    def _seal(self, until: str) -> str:
        key = (self.token or "").encode()
        return hmac.new(key, _PURPOSE + b"\0" + until.encode("utf-8", "surrogatepass"), sha256).hexdigest()


def is_loopback(address: str) -> bool:
    """Say whether an address, or `localhost`, leads nowhere but to this machine."""
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Give the name in a Host field, without the port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()
