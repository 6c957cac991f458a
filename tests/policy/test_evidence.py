"""What is recorded of a client beyond the default fields: its network, and one word of its program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.policy.addresses import TrustedProxies
from meter_mw.policy.evidence import FAMILIES, Address, Agent, EvidenceRules, family, truncated
from support.policies import request

if TYPE_CHECKING:
    from collections.abc import Mapping

BOTH = EvidenceRules(Address.TRUNCATED, Agent.FAMILY)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("2001:db8:1:2::", "2001:db8:1::/48"),
        ("canary", None),
        ("", None),
    ],
)
def test_of_an_address_its_network_is_kept(address: str, network: str | None) -> None:
    assert truncated(address) == network


@pytest.mark.parametrize(
    ("agent", "word"),
    [
        ("curl/8.5.0", "curl"),
        ("python-requests/2.32.3", "python-requests"),
        ("PostmanRuntime/7.43.0", "postmanruntime"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", "firefox"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36", "chrome"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "edge"),
        ("Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 Version/18.0 Safari/605.1.15", "safari"),
        ("canary-of-a-person/1.0", "other"),
        ("", "other"),
    ],
)
def test_of_a_user_agent_its_family_is_kept(agent: str, word: str) -> None:
    assert family(agent) == word


@given(st.text(max_size=300))
def test_no_word_of_a_client_is_kept(agent: str) -> None:
    assert family(agent) in FAMILIES


@pytest.mark.parametrize(
    ("rules", "fields"),
    [
        (EvidenceRules(), {}),
        (EvidenceRules(Address.TRUNCATED), {"ip": "203.0.113.0/24"}),
        (EvidenceRules(agent=Agent.FAMILY), {"user_agent": "curl"}),
        (BOTH, {"ip": "203.0.113.0/24", "user_agent": "curl"}),
    ],
)
def test_what_a_policy_asks_for_is_told(rules: EvidenceRules, fields: Mapping[str, str]) -> None:
    """Behind a proxy of ours it is the client's network, and not the proxy's."""
    asked = request(peer="10.0.0.1", x_forwarded_for="203.0.113.9", user_agent="curl/8.5.0")
    assert dict(rules.of(asked, TrustedProxies.parse(["10.0.0.0/8"]))) == fields
    assert bool(rules) is bool(fields)


def test_what_a_client_does_not_tell_is_left_out() -> None:
    assert BOTH.of(request(peer=None), TrustedProxies()) == ()
