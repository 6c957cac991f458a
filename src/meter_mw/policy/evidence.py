"""What a policy may have recorded of a client beyond the default fields: a coarse word of what it sent.

Rule 1: of an address its network is recorded, of a user agent one word of a closed list. So no text of a
client's own is in an event, and who sends odd ones is not singled out by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network
from typing import TYPE_CHECKING

from meter_mw.policy.addresses import parse_address

if TYPE_CHECKING:
    from meter_mw.model import Request
    from meter_mw.policy.addresses import TrustedProxies

_V4, _V6 = 24, 48
"""Bits of an address that are kept: the last 8 of 32, and 80 of 128, are not."""

_BROWSERS = (
    ("edg/", "edge"),
    ("opr/", "opera"),
    ("firefox/", "firefox"),
    ("chrome/", "chrome"),
    ("safari/", "safari"),
)
"""By what tells a browser from those that it says it is like: the first that is found."""

_PROGRAMS = frozenset(
    (
        "aiohttp",
        "apache-httpclient",
        "axios",
        "curl",
        "dart",
        "go-http-client",
        "got",
        "guzzlehttp",
        "insomnia",
        "java",
        "node",
        "node-fetch",
        "okhttp",
        "postmanruntime",
        "powershell",
        "python",
        "python-httpx",
        "python-requests",
        "python-urllib",
        "python-urllib3",
        "ruby",
        "undici",
        "wget",
    )
)
"""Products (RFC 9110, section 10.1.5) that are told by their names; all others are one."""

OTHER = "other"
"""The family of every user agent that is not listed."""

_READ = 256
"""Characters of a user agent that are looked at."""


class Address(Enum):
    """What is recorded of a client's address."""

    NONE = "none"
    TRUNCATED = "truncated"
    """Its network: /24 of IPv4, /48 of IPv6."""


class Agent(Enum):
    """What is recorded of a client's program."""

    NONE = "none"
    FAMILY = "family"
    """One word of a closed list."""


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """What is recorded of a client beyond the default fields; nothing, unless it is said."""

    address: Address = Address.NONE
    agent: Agent = Agent.NONE

    def __bool__(self) -> bool:
        """Whether anything is."""
        return self != EvidenceRules()

    def of(self, request: Request, proxies: TrustedProxies) -> tuple[tuple[str, str], ...]:
        """Give the fields that an event of a request has for it, as far as the request tells them."""
        found: list[tuple[str, str]] = []
        if self.address is Address.TRUNCATED:
            seen = proxies.client_address(request.peer, request.field("x-forwarded-for"))
            network = truncated(seen.partition("/")[0]) if seen else None
            found += [("ip", network)] if network else []
        if self.agent is Agent.FAMILY:
            values = request.field("user-agent")
            found += [("user_agent", family(values[0]))] if values else []
        return tuple(found)


def truncated(address: str) -> str | None:
    """Give the network of an address, `203.0.113.0/24` or `2001:db8:1::/48`; None for what is no address."""
    parsed = parse_address(address)
    if parsed is None:
        return None
    return str(ip_network((parsed, _V4 if parsed.version == 4 else _V6), strict=False))


def family(agent: str) -> str:
    """Give the family of a user agent: `curl`, `firefox`, and `other` for what is not listed."""
    said = agent[:_READ].lower()
    product = said.partition("/")[0].partition(" ")[0]
    if product == "mozilla":
        return next((word for mark, word in _BROWSERS if mark in said), OTHER)
    return product if product in _PROGRAMS else OTHER


FAMILIES = frozenset((*(word for _, word in _BROWSERS), *_PROGRAMS, OTHER))
"""All words that an event may have for a user agent."""
