"""Whose address a request came from, when proxies that we trust stand between.

Rule 1: an address is believed only if the socket, or a trusted proxy, has seen it.
Rule 2: what stands left of a hop that cannot be read was seen by nobody we know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

_LONGEST = 64
"""Characters; an IPv6 address with its zone, brackets and port takes less."""

_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::[0-9]{1,5})?")
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}")

_SUBNET_V6 = -1 << 64
"""The mask of a /64 (RFC 6177): one customer has at least that, so its addresses are one."""


class AddressError(MeterError):
    """A trusted proxy that is neither a network nor the word `unix`."""


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed: their networks, and peers on a Unix socket if `unix`."""

    networks: tuple[_Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, words: Iterable[str]) -> TrustedProxies:
        """Read networks (`10.0.0.0/8`), addresses and the word `unix`. Raises AddressError."""
        listed = tuple(words)
        return cls(tuple(_network(word) for word in listed if word != "unix"), unix="unix" in listed)

    def client_address(self, peer: str | None, forwarded_for: Sequence[str]) -> str | None:
        """Return the prefix that stands for the client, or None if nobody we trust has seen it.

        With 10.0.0.0/8 trusted, peer 10.0.0.1 and `X-Forwarded-For: 6.6.6.6, 198.51.100.7, 10.0.0.2`
        it is `198.51.100.7`: the rightmost hop that is not ours. An IPv6 client is its /64, such as
        `2001:db8:0:1::/64`. If every hop is ours, it is the leftmost.

        `peer` is the socket's other end, None or empty on a Unix socket; `forwarded_for` holds every
        value of the field in order.
        """
        seen = parse_address(peer) if peer else None
        if not (self._trusts(seen) if peer else self.unix):
            return _prefix(seen)
        for value in reversed(forwarded_for):
            for hop in reversed(value.split(",")):
                address = parse_address(hop.strip(" \t"))
                if address is None:
                    return _prefix(seen)
                seen = address
                if not self._trusts(address):
                    return _prefix(seen)
        return _prefix(seen)

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self.networks)


def parse_address(text: str) -> _Address | None:
    """Read an address as proxies write it, without its port, brackets and zone; None if it is none.

    An IPv4 address that is mapped into IPv6 (RFC 4291, section 2.5.5.2) is the IPv4 address.
    """
    if len(text) > _LONGEST:
        return None
    bracketed = _BRACKETED.fullmatch(text)
    with_port = _WITH_PORT.fullmatch(text)
    try:
        if bracketed:
            address: _Address = IPv6Address(bracketed[1])
        else:
            address = ip_address(with_port[1] if with_port else text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))  # without its zone


def _prefix(address: _Address | None) -> str | None:
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) & _SUBNET_V6)}/64"
    return None if address is None else str(address)


def _network(word: str) -> _Network:
    try:
        network = ip_network(word, strict=False)
    except ValueError:
        raise AddressError(
            f"{word!r} is no trusted proxy; write a network such as '10.0.0.0/8', an address, or 'unix'"
        ) from None
    if "/" in word and ip_network(word.partition("/")[0]).network_address != network.network_address:
        raise AddressError(
            f"{word!r} is an address with the length of a network; did you mean {str(network)!r}?"
        )
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network
