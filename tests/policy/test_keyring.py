"""Secrets that follow each other: which is in force when, and whose key it stays all the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import GOOD, good

from meter_mw.admission import Answer
from meter_mw.identifying import Acquaintances, identify
from meter_mw.policy.identity import Credential, is_made_here, is_pseudonym
from meter_mw.policy.keyring import Keyring, Secret, is_secret_id
from meter_mw.policy.loader import load
from meter_mw.policy.policy import Unknown
from meter_mw.policy.problems import PolicyError
from meter_mw.policy.terms import KeyEntry
from meter_mw.registry.lookup import Lookup
from meter_mw.registry.office import Office
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.redis_store import open_store
from meter_mw.talk import Registered, Resolve
from support.policies import cap, held, policy, request
from support.talks import ended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.stores.redis_store import RedisStore

EDGE_US = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
OLD, NEW = Secret("k1", b"o" * 32), Secret("k2", b"n" * 32, EDGE_US)
RING = Keyring((OLD, NEW))
RAW = Credential("raw")


def caller(rules: Policy, now_us: int, key: str | None = "raw") -> Caller:
    """Give who is found, where nobody need be asked."""
    found: Caller = ended(identify(rules, request(key=key), now_us))
    return found


# -- the ring


@given(st.integers(0, 2**52))
def test_the_latest_secret_that_has_begun_is_in_force(now_us: int) -> None:
    assert RING.at(now_us) is (NEW if now_us >= EDGE_US else OLD)
    assert Keyring.of(b"s" * 16).at(now_us).id == "k1"


@pytest.mark.parametrize(
    "secrets",
    [(), (NEW,), (NEW, OLD), (OLD, OLD), (OLD, Secret("k1", b"x" * 16, 5)), (OLD, Secret("k2", b"x" * 16))],
)
def test_a_ring_says_which_secret_is_in_force(secrets: tuple[Secret, ...]) -> None:
    with pytest.raises(ValueError, match="secret"):
        Keyring(secrets)


@pytest.mark.parametrize("name", ["", "k0", "k100", "K1", "k1_", "one"])
def test_an_id_is_what_pseudonyms_begin_with(name: str) -> None:
    assert not is_secret_id(name)
    with pytest.raises(ValueError, match="k1 to k99"):
        Secret(name, b"x" * 16)


def test_a_pseudonym_names_its_secret_and_no_repr_shows_that() -> None:
    assert (OLD.pseudonym(RAW)[:3], NEW.pseudonym(RAW)[:3]) == ("k1_", "k2_")
    assert OLD.pseudonym(RAW)[3:] != NEW.pseudonym(RAW)[3:]
    assert is_pseudonym(NEW.pseudonym(RAW))
    assert is_made_here(NEW.anonymous("192.0.2.1"))
    assert not is_made_here("k100_a")
    assert "oooo" not in repr(RING)


# -- who it is


def test_a_listed_key_keeps_its_subject_and_the_limits_of_the_key() -> None:
    """Its events have the new pseudonym from the edge on; its counts go on where they were."""
    rules = load(GOOD / "identity_secrets.yaml", {"METER_KEY_SECRET": "m" * 32, "ACME_KEY": "raw"})
    moments = [int(datetime(year, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in (2026, 2027, 2028)]
    before, between, after = (caller(rules, moment) for moment in moments)
    assert [each.key[:3] for each in (before, between, after) if each.key] == ["k1_", "k2_", "k3_"]
    assert {each.subject for each in (before, between, after)} == {"acme"}
    assert len({(each.tag, each.key_holder) for each in (before, between, after)}) == 1
    assert len(rules.keys) == 1


def test_a_key_that_no_list_names_is_another_subject_from_the_edge_on() -> None:
    """And never before it, nor in the middle of its month."""
    rules = policy(cap(1), keyring=RING)
    assert caller(rules, EDGE_US - 1).subject == OLD.pseudonym(RAW)
    assert caller(rules, EDGE_US).subject == NEW.pseudonym(RAW)
    assert caller(rules, EDGE_US - 1, None).subject != caller(rules, EDGE_US, None).subject


def test_its_cap_is_not_begun_anew_by_the_edge_but_by_its_month() -> None:
    now = [EDGE_US - 2]
    store, rules = MemoryStore(lambda: now[0]), policy(cap(1), keyring=RING)
    answers = []
    for now[0] in (EDGE_US - 2, EDGE_US - 1, EDGE_US, EDGE_US + 1):
        answers.append(held(rules, request(key="raw"), store).answer)
    assert answers == [Answer.ALLOWED, Answer.DENIED, Answer.ALLOWED, Answer.DENIED]


def test_who_is_known_again_is_known_under_the_secret_of_the_moment() -> None:
    """One who was met before the edge, and is told of after it, is not taken for whom he was then."""
    rules = policy(cap(1), keyring=RING)
    known = Acquaintances(rules)
    known.meet(request(key="raw"), caller(rules, EDGE_US - 1), EDGE_US - 1)
    known.meet(request(), caller(rules, EDGE_US - 1, None), EDGE_US - 1)
    assert known.find(request(key="raw"), EDGE_US) is None
    assert known.find(request(), EDGE_US) is None
    found = known.find(request(key="raw"), EDGE_US - 1)
    assert found is not None
    assert found.subject == OLD.pseudonym(RAW)


# -- the registry


@pytest.fixture
def registered(redis_url: str) -> Iterator[tuple[Policy, RedisStore]]:
    """Give a policy with keys in Redis, whose secrets change, and its store."""
    store = open_store(redis_url)
    ring = Keyring((OLD, Secret("k2", b"n" * 32, 1)))
    rules = policy(cap(9), keyring=ring, unknown=Unknown.REJECT, store=redis_url)
    yield replace(rules, registry=True), store
    store.close()


def test_a_registered_key_is_found_under_the_secret_that_it_was_made_under(
    registered: tuple[Policy, RedisStore],
) -> None:
    """It keeps its pseudonym, and so its limits, for as long as it lives; a new key has the new secret's."""
    rules, store = registered
    old, credential = Office(policy(keyring=Keyring((OLD,)), store=rules.store), store).create("acme", {})
    new, _ = Office(rules, store).rotate(old.key.id, 0)[1:]
    assert (old.key.secret, new.key.secret) == ("k1", "k2")
    later, _ = Office(rules, store).create("globex", {})
    assert later.key.secret == "k2"
    talk = identify(rules, request(key=credential.reveal()), EDGE_US)
    asked = next(talk)
    assert isinstance(asked, Resolve)
    assert (asked.key[:3], [each[:3] for each in asked.others]) == ("k2_", ["k1_"])
    made_under = {each.key.pseudonym: each.key.id for each in Office(rules, store).entries()}
    assert len(made_under) == 3
    with pytest.raises(StopIteration) as end:
        talk.send(Registered(old.key.pseudonym, KeyEntry("acme")))
    assert (end.value.value.subject, end.value.value.key) == ("acme", old.key.pseudonym)


def test_one_round_trip_asks_for_all_pseudonyms(registered: tuple[Policy, RedisStore]) -> None:
    rules, store = registered
    old, credential = Office(policy(keyring=Keyring((OLD,)), store=rules.store), store).create("acme", {})
    names = tuple(each.pseudonym(credential) for each in reversed(rules.identity.keyring.secrets))
    found = Lookup(rules).ask(names[0], store, names[1:])
    assert found is not None
    assert found.key.pseudonym == old.key.pseudonym
    assert Lookup(rules).ask(names[0], store) is None


# -- the policy


def test_days_begin_in_the_zone_of_the_policy() -> None:
    ring = good("identity_secrets").identity.keyring
    assert [each.id for each in ring.secrets] == ["k1", "k2", "k3"]
    assert ring.secrets[1].since_us == EDGE_US - 3_600_000_000  # midnight in Paris


@pytest.mark.parametrize(
    ("limits", "day", "complaint"),
    [
        ([{"cap": "5/day"}], "2027-01-02", None),
        ([{"cap": "5/week"}], "2027-01-04", None),
        ([{"cap": "5/week"}], "2027-01-05", "in the middle of a week"),
        ([{"cap": "5/month"}], "2027-02-01", None),
        ([{"cap": "5/year"}], "2027-02-01", "such as 2028-01-01"),
        ([{"rate": "5/second"}], "2027-02-03", None),
    ],
)
def test_a_secret_comes_into_force_at_the_edge_of_a_period(
    limits: list[dict[str, str]], day: str, complaint: str | None
) -> None:
    """Plans that only listed keys are on do not matter, as those keep their subject."""
    said = {
        "version": 1,
        "service": "shop",
        "identity": {
            "secrets": [
                {"id": "k2", "secret": "n" * 32, "from": day},
                {"id": "k1", "secret": "o" * 32},
            ]
        },
        "plans": {"default": {"limits": limits}, "pro": {"limits": [{"cap": "1/year"}]}},
    }
    if complaint is None:
        assert load(said).identity.keyring.rotates
    else:
        with pytest.raises(PolicyError, match=complaint):
            load(said)
