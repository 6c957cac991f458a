"""Requests for which nobody is asked: the same answers as a conversation's, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Admission, Answer
from meter_mw.core import admit
from meter_mw.leasing.lease import Grant
from meter_mw.leasing.pool import Pool
from meter_mw.policy.identity import QueryKey
from meter_mw.policy.keyring import Keyring, Secret
from meter_mw.policy.policy import Mode
from meter_mw.policy.terms import ChargeRules, Exemption, KeyEntry, Scope, Speed
from meter_mw.quota import OnDeny
from meter_mw.ready import Readies
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, StoreUnavailable, Verdict
from meter_mw.turnstile import Turnstile
from support.policies import SECOND_US, cap, policy, preflight, rate, request, route
from support.talks import NOW_US

if TYPE_CHECKING:
    from meter_mw.model import Request
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import Limit
    from meter_mw.stores.port import Charge


def leased(limit: Limit, scope: Scope = Scope.SUBJECT) -> Limit:
    """Have a limit decided from leases."""
    return replace(limit, speed=Speed.LEASED, scope=scope)


class Desk:
    """A store, and what stands between it and requests; the clock is set by hand."""

    def __init__(self, rules: Policy) -> None:
        self.rules = rules
        self.now_us = NOW_US
        self.store = MemoryStore(lambda: self.now_us)
        self.pools: dict[tuple[str, str], Pool] = {}
        self.readies = Readies(rules, self.pool)
        self.turnstile = Turnstile(rules, self.readies)
        self.asked: list[Admit] = []

    def pool(self, tag: str, charges: tuple[Charge, ...], speed: Speed) -> Pool:
        """Give the pool of some charges; nobody grants it anything by itself."""
        name = (tag, charges[0].holder)
        return self.pools.setdefault(name, Pool(charges[0].holder or tag, charges, speed, lambda _: None))

    def lend(self, pool: Pool, requests: int) -> None:
        """Have the store debit a slice."""
        charges = tuple(replace(each, need=requests, take=requests, holder="") for each in pool.charges)
        rid = new_rid(self.now_us)
        tally = self.store.admit(Admit(rid, pool.tag, self.now_us, charges))
        assert tally.verdict is Verdict.ADMITTED
        pool.granted(Grant(rid, pool.tag, pool.charges, requests, tally.readings, self.now_us), SECOND_US)

    def talked(self, wanted: Request) -> Admission:
        """Decide by a conversation, with the store."""
        talk = admit(self.rules, wanted, new_rid(self.now_us), self.now_us, readies=self.readies)
        try:
            command = next(talk)
            assert isinstance(command, Admit)
            self.asked.append(command)
            talk.send(self.store.admit(command))
        except StopIteration as end:
            admission: Admission = end.value
            self.turnstile.meet(wanted, admission, self.now_us)
            return admission
        raise AssertionError("the store was asked twice")

    def at_once(self, wanted: Request) -> Admission | None:
        """Decide without anybody; `None` where somebody would be asked."""
        decided = self.turnstile.admit(wanted, self.now_us)
        return decided if isinstance(decided, Admission) else None


BOTH = (leased(rate(1_000)), leased(cap(10_000)))


def told(admission: Admission | None) -> list[tuple[str, int, int | None, int | None]]:
    """Give how a caller stands."""
    assert admission is not None
    return [
        (each.line.limit.name, each.remaining, each.reset_us, each.used) for each in admission.every_standing
    ]


def test_who_has_a_lease_is_let_in_as_by_the_store() -> None:
    """The answer is the store's to the same requests; only it was not asked."""
    lent, asked = Desk(policy(*BOTH)), Desk(policy(*BOTH))
    for desk in (lent, asked):
        assert desk.at_once(request(key="k")) is None  # nobody knows it
        desk.talked(request(key="k"))
        assert desk.at_once(request(key="k")) is None  # there is nothing to take
    (pool,) = lent.pools.values()
    lent.lend(pool, 20)
    for _ in range(20):
        here, there = lent.at_once(request(key="k")), asked.talked(request(key="k"))
        assert here is not None
        assert told(here) == told(there)
        assert (here.answer, here.route, here.caller) == (there.answer, there.route, there.caller)
        assert (here.charges, here.standings) == ((), ())
    assert lent.at_once(request(key="k")) is None


@pytest.mark.parametrize(
    "unusual",
    [
        preflight(),
        request(method="OPTIONS", key="k"),
        request(key="k", is_socket=True),
        request("/health", key="k"),
        request("/priced", key="k"),
        request("/v1/\nitems", key="k"),
        request(key="another"),
        request(key="free"),
        request(),
        request(authorization="Bearer k"),
    ],
)
def test_what_is_unusual_takes_a_conversation(unusual: Request) -> None:
    """A lease alone lets nobody in."""
    routes = [
        route("/health", exemption=Exemption.FREE),
        route("/priced", pricing=lambda _: 1),
        route("/", name="root"),
    ]
    keys = {"k": KeyEntry("acme"), "free": KeyEntry("acme", exemption=Exemption.COUNTED)}
    desk = Desk(policy(*BOTH, routes=routes, keys=keys))
    for key in ("k", "free"):
        desk.turnstile.meet(request(key=key), desk.talked(request(key=key)), desk.now_us)
    for pool in desk.pools.values():
        desk.lend(pool, 20)
    assert desk.at_once(request(key="k")) is not None
    assert desk.at_once(unusual) is None


def test_shadow_mode_asks_the_store_each_time() -> None:
    """Whoever would be refused is served there, and both are to be told apart."""
    desk = Desk(policy(*BOTH, mode=Mode.SHADOW))
    desk.talked(request(key="k"))
    for pool in desk.pools.values():
        desk.lend(pool, 20)
    assert desk.at_once(request(key="k")) is None


def test_callers_without_a_key_are_known_by_their_addresses() -> None:
    """A proxy that is believed tells of others; each is known by itself."""
    desk = Desk(policy(leased(rate(1_000)), trusted_proxies=["192.0.2.0/24"]))
    known = [request(), request(x_forwarded_for="198.51.100.1"), request(peer="203.0.113.1")]
    for each in known:
        desk.talked(each)
    for pool in desk.pools.values():
        desk.lend(pool, 20)
    callers = [admission.caller for each in known if (admission := desk.at_once(each)) is not None]
    assert len({each.subject for each in callers if each is not None}) == 3
    assert desk.at_once(request(x_forwarded_for="198.51.100.2")) is None


def test_a_key_in_the_query_is_a_word_like_others() -> None:
    """Another query is another caller, for all that is known."""
    desk = Desk(policy(leased(rate(1_000)), places=[QueryKey("api_key")]))
    desk.talked(request(query="api_key=k"))
    (pool,) = desk.pools.values()
    desk.lend(pool, 20)
    assert desk.at_once(request(query="api_key=k")) is not None
    assert desk.at_once(request(query="api_key=other")) is None


def test_whom_a_resolver_describes_is_asked_for_each_time() -> None:
    """What it says may change; what the policy lists does not."""
    desk = Desk(policy(leased(rate(1_000)), keys={"k": KeyEntry("acme")}, resolver=lambda _: None))
    desk.talked(request(key="k"))
    for pool in desk.pools.values():
        desk.lend(pool, 20)
    assert desk.at_once(request(key="k")) is not None
    stranger = desk.rules.stranger("k1_x", key="k1_x")
    admission = Admission(Answer.ALLOWED, new_rid(0), 0, desk.rules.route("GET", "/"), stranger)
    desk.turnstile.meet(request(key="x"), admission, desk.now_us)
    assert desk.at_once(request(key="x")) is None


def test_a_caller_is_known_by_the_secret_that_named_it() -> None:
    """One whose request began under the last secret, and was answered under the next, is named anew."""
    edge_us = NOW_US + SECOND_US
    ring = Keyring((Secret("k1", b"o" * 32), Secret("k2", b"n" * 32, edge_us)))
    desk = Desk(policy(leased(rate(1_000)), keyring=ring))
    talk = admit(desk.rules, request(key="k"), new_rid(0), edge_us - 1, readies=desk.readies)
    command = next(talk)
    desk.now_us = edge_us
    assert isinstance(command, Admit)
    with pytest.raises(StopIteration) as end:
        talk.send(desk.store.admit(command))
    assert end.value.value.now_us == edge_us
    desk.turnstile.meet(request(key="k"), end.value.value, edge_us - 1)
    (pool,) = desk.pools.values()
    desk.lend(pool, 20)
    assert desk.at_once(request(key="k")) is None
    desk.now_us -= 1
    assert desk.at_once(request(key="k")) is not None


# What is lent in part


SHARED = (leased(rate(1_000)), leased(cap(10_000, name="all"), Scope.EVERYONE), leased(cap(500)))


def test_only_what_is_not_lent_is_asked_for() -> None:
    """One pool for the subject, one for everyone; the fields name all limits in their order."""
    desk, plain = Desk(policy(*SHARED)), Desk(policy(*SHARED))
    for each in (desk, plain):
        each.talked(request(key="k"))
    everyone = next(pool for (_, holder), pool in desk.pools.items() if holder)
    desk.lend(everyone, 20)
    admission, there = desk.talked(request(key="k")), plain.talked(request(key="k"))
    assert [each.id for each in desk.asked[-1].charges] == [SHARED[0].id, SHARED[2].id]
    assert told(admission) == told(there)
    assert len(admission.charges) == 2
    assert admission.lent is not None
    assert [share.lease.flying for share in admission.lent.shares] == [1]


def test_a_share_is_given_back_where_the_rest_is_refused() -> None:
    """Or where the store does not say, and the limit fails closed; or where nobody waits any more."""
    desk = Desk(policy(leased(cap(1)), leased(cap(10_000, name="all"), Scope.EVERYONE)))
    assert desk.talked(request(key="k")).serves
    everyone = next(pool for (_, holder), pool in desk.pools.items() if holder)
    desk.lend(everyone, 20)
    assert not desk.talked(request(key="k")).serves
    for failure in (StoreUnavailable("gone"), GeneratorExit()):
        talk = admit(desk.rules, request(key="k"), new_rid(0), desk.now_us, readies=desk.readies)
        next(talk)
        with pytest.raises((StopIteration, GeneratorExit)):
            talk.throw(failure)
    for _ in range(20):
        share = everyone.take(desk.now_us)
        assert share is not None
    assert everyone.take(desk.now_us) is None


@pytest.mark.parametrize("on_deny", OnDeny)
def test_a_refusal_counts_against_rates_that_are_lent_as_against_others(on_deny: OnDeny) -> None:
    """With `all` they keep what it took, and caps get theirs back."""
    rules = policy(leased(cap(1)), leased(rate(1_000), Scope.EVERYONE), charge=ChargeRules(on_deny=on_deny))
    desk = Desk(rules)
    assert desk.talked(request(key="k")).serves
    everyone = next(pool for (_, holder), pool in desk.pools.items() if holder)
    desk.lend(everyone, 20)
    share = everyone.take(desk.now_us)
    assert share is not None
    share.lease.give_back()
    assert not desk.talked(request(key="k")).serves
    kept = int(on_deny is OnDeny.ALL)
    assert (share.lease.used, share.lease.refunded, share.lease.flying) == (kept, kept, 0)
    assert share.lease.left == 20 - kept


# Refusals that go on


def test_the_second_refusal_within_a_second_is_remembered() -> None:
    """What follows asks nobody, and is told how long it is still to wait."""
    desk = Desk(policy(leased(rate(2, burst=2, period_us=10 * SECOND_US))))
    answers = [desk.talked(request(key="k")).answer for _ in range(4)]
    assert answers == [Answer.ALLOWED] * 2 + [Answer.DENIED] * 2
    desk.now_us += 300_000
    for decided in (desk.at_once(request(key="k")), desk.talked(request(key="k"))):
        assert decided is not None
        assert (decided.answer, decided.retry_after_us) == (Answer.DENIED, 4_700_000)
    assert len(desk.asked) == 4
    desk.now_us += 800_000
    assert desk.at_once(request(key="k")) is None  # a second is over: others may have given back


def test_the_wait_is_exact() -> None:
    """The first request that would fit is asked for."""
    desk = Desk(policy(leased(rate(2, burst=2))))
    for _ in range(4):
        desk.talked(request(key="k"))
    desk.now_us += 499_999
    refused = desk.at_once(request(key="k"))
    assert refused is not None
    assert refused.retry_after_us == 1
    desk.now_us += 1
    assert desk.at_once(request(key="k")) is None
    assert desk.talked(request(key="k")).serves


def test_a_cap_refuses_until_its_window_closes() -> None:
    """And not a moment longer."""
    desk = Desk(policy(leased(cap(1))))
    desk.now_us = NOW_US + 31 * 86_400 * SECOND_US - 500_000
    for _ in range(3):
        desk.talked(request(key="k"))
    refused = desk.at_once(request(key="k"))
    assert refused is not None
    assert refused.retry_after_us == 500_000
    desk.now_us += 500_000
    assert desk.at_once(request(key="k")) is None


@pytest.mark.parametrize(
    "rules",
    [
        policy(replace(rate(1), speed=Speed.STRICT)),
        policy(leased(rate(1)), charge=ChargeRules(on_deny=OnDeny.SELF)),
    ],
    ids=["strict", "refusals count"],
)
def test_some_refusals_are_always_asked_for(rules: Policy) -> None:
    """Where the policy says so, or where a refusal changes what the store knows."""
    desk = Desk(rules)
    for _ in range(5):
        desk.talked(request(key="k"))
    assert desk.at_once(request(key="k")) is None
    assert len(desk.asked) == 5


def test_what_two_refusals_apart_say_is_not_remembered() -> None:
    """A caller that keeps to what it is told costs one look each time."""
    desk = Desk(policy(leased(rate(1, period_us=3 * SECOND_US))))
    for _ in range(4):
        desk.talked(request(key="k"))
        desk.now_us += 1_000_000
    assert desk.at_once(request(key="k")) is None
