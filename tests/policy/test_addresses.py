"""Whose address a request came from: twenty header combinations and more."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.policy.addresses import AddressError, TrustedProxies, parse_address

PROXIES = TrustedProxies.parse(["10.0.0.0/8", "2001:db8:ff::/48"])
UNIX = TrustedProxies.parse(["10.0.0.0/8", "unix"])

CLIENT, SPOOF, OURS = "198.51.100.7", "6.6.6.6", "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        # who the socket is
        (CLIENT, [], CLIENT),
        (CLIENT, [SPOOF], CLIENT),
        (CLIENT, [f"{SPOOF}, {OURS}"], CLIENT),
        (OURS, [], OURS),
        ("::ffff:198.51.100.7", [SPOOF], CLIENT),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        ("2001:db8:ff::1", [CLIENT], CLIENT),
        ("2001:db8::1", [SPOOF], "2001:db8::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("testclient", [CLIENT], None),
        (None, [CLIENT], None),
        ("", [CLIENT], None),
        # the rightmost hop that is not ours
        (OURS, [CLIENT], CLIENT),
        (OURS, [f"{SPOOF}, {CLIENT}"], CLIENT),
        (OURS, [f"{SPOOF}, {CLIENT}, 10.0.0.2"], CLIENT),
        (OURS, [f"{SPOOF},{CLIENT}\t, 10.0.0.2 ,10.9.9.9"], CLIENT),
        (OURS, [SPOOF, CLIENT], CLIENT),
        (OURS, [SPOOF, f"{CLIENT}, 10.0.0.2", "10.0.0.3"], CLIENT),
        (OURS, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (OURS, [f"{OURS}, {SPOOF}, {CLIENT}"], CLIENT),
        # how a hop is written
        (OURS, [f"{CLIENT}:51234"], CLIENT),
        (OURS, ["[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        (OURS, ["[2001:db8:1:2:3::4]"], "2001:db8:1:2::/64"),
        (OURS, ["2001:DB8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (OURS, ["fe80::1%25eth0"], "fe80::/64"),
        (OURS, ["[fe80::1%eth0]:80"], "fe80::/64"),
        (OURS, ["::ffff:198.51.100.7"], CLIENT),
        (OURS, ["[::ffff:c633:6407]:80"], CLIENT),
        (OURS, [f"{CLIENT}, ::ffff:10.0.0.9"], CLIENT),
        # what cannot be read hides all that is left of it
        (OURS, ["unknown"], OURS),
        (OURS, [""], OURS),
        (OURS, [f"{SPOOF}, "], OURS),
        (OURS, [f"{SPOOF},, 10.0.0.2"], "10.0.0.2"),
        (OURS, [f"{SPOOF}, unknown, 10.0.0.2"], "10.0.0.2"),
        (OURS, [f"{SPOOF}, _hidden"], OURS),
        (OURS, [SPOOF, "garbage"], OURS),
        (OURS, [f'{SPOOF}, "[2001:db8::1]"'], OURS),
        (OURS, ["198.51.100.007"], OURS),
        (OURS, ["198.51.100.7:"], OURS),
        (OURS, ["198.51.100.7:123456"], OURS),
        (OURS, ["198.51.100.7:8x"], OURS),
        (OURS, ["198.51.100.7%eth0"], OURS),
        (OURS, ["[198.51.100.7]"], OURS),
        (OURS, ["[2001:db8::1"], OURS),
        (OURS, ["3325256711"], OURS),
        (OURS, ["198.51.100.7/32"], OURS),
        (OURS, ["198.51.100.7\x00"], OURS),
        (OURS, ["\u0661.2.3.4"], OURS),
        (OURS, ["1" * 100_000], OURS),
        (OURS, ["fe80::1%" + "a" * 100], OURS),
    ],
)
def test_client_address(peer: str | None, forwarded_for: list[str], expected: str | None) -> None:
    """The prefix is of the rightmost hop that a trusted proxy has seen and that is no proxy of ours."""
    assert PROXIES.client_address(peer, forwarded_for) == expected


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        (None, [f"{SPOOF}, {CLIENT}"], CLIENT),
        ("", [CLIENT], CLIENT),
        (None, ["10.0.0.2"], "10.0.0.2"),
        (None, [], None),
        (None, ["unknown"], None),
        (None, [f"{SPOOF}, junk"], None),
        (CLIENT, [SPOOF], CLIENT),
        ("localhost", [SPOOF], None),
    ],
)
def test_unix_socket(peer: str | None, forwarded_for: list[str], expected: str | None) -> None:
    """Only where the policy trusts `unix` is the header of a peer without an address believed."""
    assert UNIX.client_address(peer, forwarded_for) == expected


def test_nobody_is_trusted_by_default() -> None:
    """Without trusted proxies the header is never read."""
    for peer in (CLIENT, "127.0.0.1", OURS):
        assert TrustedProxies().client_address(peer, [SPOOF]) == peer
    assert TrustedProxies().client_address(None, [SPOOF]) is None


@given(st.lists(st.ip_addresses().map(str) | st.text("0123456789abcdef.:,%[] ", max_size=12), max_size=4))
@settings(deadline=None)
def test_what_clients_send_is_never_believed(sent: list[str]) -> None:
    """Whatever a client puts before the hop that our proxy adds, the answer is that hop."""
    for values in ([", ".join([*sent, CLIENT])], [*sent, CLIENT]):
        assert PROXIES.client_address(OURS, values) == CLIENT


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_one_subnet_is_one_prefix(subnet: int, host: int, other: int) -> None:
    """Two IPv6 addresses have one prefix if, and only if, they share their first 64 bits."""
    here, there, beyond = (
        str(IPv6Address(number))
        for number in (subnet << 64 | host, subnet << 64 | other, (subnet ^ 1) << 64 | 1 << 48)
    )
    nobody = TrustedProxies()
    assert nobody.client_address(here, ()) == nobody.client_address(there, ())
    assert nobody.client_address(here, ()) != nobody.client_address(beyond, ())


def test_mapped_addresses_stay_apart() -> None:
    """IPv4 clients on a dual-stack socket are not one /64."""
    prefixes = {TrustedProxies().client_address(f"::ffff:192.0.2.{last}", ()) for last in range(9)}
    assert len(prefixes) == 9


def test_words() -> None:
    """Networks, addresses and `unix` are read; a mapped network is the IPv4 one."""
    parsed = TrustedProxies.parse(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix", "::ffff:10.1.0.0/112"])
    expected = ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "10.1.0.0/16")
    assert tuple(map(str, parsed.networks)) == expected
    assert parsed.unix
    assert isinstance(parsed.networks[3], IPv4Network)
    assert isinstance(parsed.networks[2], IPv6Network)
    assert TrustedProxies.parse([]) == TrustedProxies()


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("*", "write a network such as '10.0.0.0/8'"),
        ("", "write a network"),
        ("proxy.internal", "or 'unix'"),
        ("10.0.0.0/33", "write a network"),
        ("10.0.0.1/8", "did you mean '10.0.0.0/8'?"),
        ("2001:db8::1/32", "did you mean '2001:db8::/32'?"),
    ],
)
def test_bad_words(word: str, advice: str) -> None:
    """Another word is refused with what to write."""
    with pytest.raises(AddressError) as caught:
        TrustedProxies.parse([word])
    assert repr(word) in str(caught.value)
    assert advice in str(caught.value)


def test_parse_address() -> None:
    """An address is read without its port, brackets and zone."""
    assert parse_address("[::ffff:1.2.3.4]:80") == IPv4Address("1.2.3.4")
    assert parse_address("fe80::1%eth0") == ip_address("fe80::1")
    assert parse_address("nowhere") is None
