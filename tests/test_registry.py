"""The registry of keys: what is kept, who finds it, what an outage leaves of it, and what guesses cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
import time
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest

from meter_mw.periods import Period
from meter_mw.policy.identity import Credential
from meter_mw.policy.problems import PolicyError
from meter_mw.policy.terms import Exemption, KeyEntry, Override, Plan
from meter_mw.quota import Cap
from meter_mw.registry import recall
from meter_mw.registry.calls import Change, change_call, find_call, found
from meter_mw.registry.lookup import Ended, Lookup
from meter_mw.registry.office import Office, RegistryError
from meter_mw.registry.recall import BELIEVED_S, STALE_S, Known, Recall
from meter_mw.registry.records import Key, packed_key, read_key
from meter_mw.resolving import ResolverDesk
from meter_mw.stores.aredis_store import open_async_store
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import StoreUnavailable
from meter_mw.stores.redis_store import RedisStore, open_store
from meter_mw.talk import KeyEnded, Registered, Resolve, ResolverUnavailable
from support.policies import cap, key_of, policy
from support.servers import on_every_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.policy.policy import Policy
    from support.servers import RedisServer

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
MILLION = 1_000_000
GUESSES = 200_000
TERMS = {"plan": "pro", "account": "group", "anchor": "2026-01-31", "timezone": "Europe/Paris"}
ENTRY = KeyEntry("acme", "pro", "group", date(2026, 1, 31), "Europe/Paris")


class Seconds:
    """A clock of seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rules(redis_url: str) -> Policy:
    """A policy whose keys are in Redis, with a cap on each plan."""
    plans = [Plan("pro", (cap(1000, name="monthly"),))]
    return replace(policy(cap(10, name="monthly"), plans=plans, store=redis_url), registry=True)


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    """A store on a clean server."""
    with contextlib.closing(open_store(redis_url)) as opened:
        yield opened


@pytest.fixture
def office(rules: Policy, store: RedisStore) -> Office:
    """Where keys are made."""
    return Office(rules, store)


def desk_of(rules: Policy, url: str | None = None) -> ResolverDesk:
    return ResolverDesk(rules, open_store(url or rules.store), open_async_store(url or rules.store))


def asked(key: str) -> Resolve:
    return Resolve(key_of(key), Credential(key))


def entry_of(answer: Registered | Known | KeyEntry | None) -> KeyEntry | None:
    """Give what an answer says of a key, beside the pseudonym that it is registered under."""
    return answer.entry if isinstance(answer, Registered | Known) else answer


def both(rules: Policy, key: str) -> list[KeyEntry | None]:
    """Ask a new desk, blocking and awaited; neither has asked before."""

    async def awaited() -> KeyEntry | None:
        store = open_async_store(rules.store)
        try:
            return entry_of(await ResolverDesk(rules, open_store(rules.store), store).aask(asked(key)))
        finally:
            await store.aclose()

    return [entry_of(desk_of(rules).ask(asked(key))), asyncio.run(awaited())]


# What is kept


@on_every_redis
def test_a_key_that_was_made_is_found_with_the_terms_of_its_subject(rules: Policy, office: Office) -> None:
    """By blocking and by awaiting callers alike."""
    _, credential = office.create("acme", TERMS)
    assert both(rules, credential.reveal()) == [ENTRY, ENTRY]
    assert both(rules, credential.reveal() + "x") == [None, None]


def test_redis_holds_pseudonyms_and_terms_and_never_a_key(
    office: Office, redis_server: RedisServer, rules: Policy
) -> None:
    """Whoever reads all of Redis finds no key; one that leaked is told by its prefix."""
    entry, credential = office.create("acme", TERMS)
    both(rules, credential.reveal())
    assert credential.reveal().startswith("mk_")
    assert len(credential.reveal()) == 3 + 43  # 256 bits
    with redis_server.client() as client:
        names = client.keys()
        held = client.hgetall(names[0])
    assert names == [b"mw:keys:orders-api"]
    assert set(held) == {key_of(credential.reveal()).encode(), b"acme"}
    assert json.loads(held[b"acme"]) == TERMS
    assert json.loads(held[entry.key.pseudonym.encode()]) == {
        "subject": "acme",
        "created": entry.key.created_us,
    }
    assert credential.reveal()[3:].encode() not in b"".join([*held, *held.values()])


def test_all_that_an_entry_says_comes_back(rules: Policy, office: Office) -> None:
    """Exemption and overrides too."""
    limits = {"monthly": {"cap": 20000, "until": "2026-12-01"}}
    _, credential = office.create("acme", {"plan": "pro", "exempt": "counted", "limits": limits})
    quota = Cap(20000, Period.MONTH)
    expected = KeyEntry(
        "acme",
        "pro",
        exemption=Exemption.COUNTED,
        overrides=(Override("monthly", quota, date(2026, 12, 1)),),
    )
    assert both(rules, credential.reveal()) == [expected, expected]


def test_an_amount_for_a_limit_that_is_no_more_says_nothing(rules: Policy, office: Office) -> None:
    """A new policy that has dropped a limit does not lock out who had an override for it."""
    _, credential = office.create("acme", {"limits": {"gone": {"cap": 5}, "monthly": {"cap": 7}}})
    overrides = (Override("monthly", Cap(7, Period.MONTH)),)
    assert both(rules, credential.reveal()) == [KeyEntry("acme", overrides=overrides)] * 2


def test_services_have_keys_of_their_own(rules: Policy, office: Office) -> None:
    """Two services in one Redis, under one secret, do not serve each other's keys."""
    _, credential = office.create("acme", {})
    assert both(replace(rules, service="other"), credential.reveal()) == [None, None]


# What the operator does


def test_a_second_key_takes_the_terms_over_and_may_not_contradict_them(office: Office) -> None:
    """What differs is named, and nothing is made."""
    office.create("acme", TERMS)
    second, _ = office.create("acme", {"plan": "pro"})
    assert second.terms == TERMS
    with pytest.raises(RegistryError, match='the subject "acme" has another plan and timezone in the'):
        office.create("acme", {"plan": "default", "timezone": "UTC", "account": "group"})
    assert len(office.entries()) == 2


def test_rotation_overlaps_to_the_microsecond_and_keeps_the_subject(
    rules: Policy, store: RedisStore, office: Office, redis_url: str
) -> None:
    """Both keys are the same subject's, whose counts they share; then the old one ends."""
    first, old_key = office.create("acme", TERMS)
    old, new, new_key = office.rotate(first.key.id, DAY_US)
    assert old.key.expires_us == new.key.created_us + DAY_US
    assert both(rules, old_key.reveal()) == both(rules, new_key.reveal()) == [ENTRY, ENTRY]
    tags = {rules.caller(ENTRY, key).tag for key in (old.key.pseudonym, new.key.pseudonym)}
    assert len(tags) == 1
    now = [old.key.expires_us - 1]
    lookup, later = Lookup(rules), open_store(redis_url, clock=lambda: now[0])
    assert entry_of(lookup.ask(old.key.pseudonym, later)) == ENTRY
    now[0] += 1
    with pytest.raises(Ended, match="expired"):  # though the answer is believed still
        lookup.ask(old.key.pseudonym, later)
    assert entry_of(lookup.ask(new.key.pseudonym, later)) == ENTRY


def test_a_second_rotation_does_not_prolong_the_first(office: Office) -> None:
    """An end that was promised stays."""
    first, _ = office.create("acme", {})
    ending, _, _ = office.rotate(first.key.id, MINUTE_US)
    again, _, _ = office.rotate(first.key.id, DAY_US)
    assert again.key.expires_us == ending.key.expires_us


def test_no_key_takes_over_from_one_that_has_ended(office: Office) -> None:
    """A stolen key that was revoked is not brought back by rotating it."""
    entry, _ = office.create("acme", {})
    office.revoke(entry.key.id)
    with pytest.raises(RegistryError, match=f"the key {entry.key.id} is revoked, and none takes over"):
        office.rotate(entry.key.id, DAY_US)
    instant, _ = office.create("acme", {})
    office.rotate(instant.key.id, 0)
    with pytest.raises(RegistryError, match="is expired, and none takes over"):
        office.rotate(instant.key.id, DAY_US)


def test_revoking_twice_keeps_the_first_time(office: Office) -> None:
    """The record says when it was."""
    entry, _ = office.create("acme", {})
    assert office.revoke(entry.key.id) == office.revoke(entry.key.pseudonym)


def test_terms_change_for_all_keys_of_a_subject_at_once(rules: Policy, office: Office) -> None:
    """They are one record."""
    keys = [office.create("acme", {})[1].reveal() for _ in range(3)]
    entry = office.entries()[0]
    office.amend(entry.key.id, lambda old: {**old.terms, "plan": "pro"})
    assert {found.plan for key in keys for found in both(rules, key) if found} == {"pro"}


def test_changes_at_the_same_time_are_all_made(rules: Policy, redis_url: str, office: Office) -> None:
    """None is lost to another that read before it and wrote after it."""
    entry, _ = office.create("acme", {})
    failures = []

    def add(worker: int) -> None:
        own = Office(rules, open_store(redis_url))
        for number in range(10):
            name = f"{worker}-{number}"
            while True:
                try:
                    own.amend(entry.key.id, lambda old, name=name: {**old.terms, name: True})
                    break
                except RegistryError as failure:  # ten others were quicker; it says so and did nothing
                    failures.append(failure)

    workers = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(office.find(entry.key.id).terms) == 40


def test_a_change_that_is_repeated_changes_nothing_more(store: RedisStore) -> None:
    """Its reply may have been lost; the second one says the same."""
    change = change_call("shop", [Change("k1_a", "", "one")])
    other = change_call("shop", [Change("k1_b", "", "b"), Change("k1_a", "two", "three")])
    assert store.ask((change, change, other), patience_us=MINUTE_US) == [1, 1, 0]
    assert store.ask((("HGETALL", "mw:keys:shop"),), patience_us=MINUTE_US) == [[b"k1_a", b"one"]]


def test_an_id_is_the_beginning_of_a_pseudonym(office: Office, store: RedisStore) -> None:
    """Shorter ones do while they name one key; else they are listed."""
    for digits in ("aaaa1111", "aaaa2222", "bbbb0000"):
        key = Key("k1_" + digits * 4, "acme", 1)
        call = change_call(
            "orders-api", [Change(key.pseudonym, "", packed_key(key)), Change("acme", "", "{}")]
        )
        assert store.ask((call,), patience_us=MINUTE_US) == [1]
    assert office.find("bbbb").key.id == "bbbb0000bbbb"
    with pytest.raises(RegistryError, match='found 2 keys whose ids begin with "aaaa": aaaa1111aaaa1111'):
        office.find("aaaa")
    with pytest.raises(RegistryError, match='found no key "cccc"'):
        office.find("cccc")


def test_many_keys_are_listed_page_by_page(office: Office, store: RedisStore) -> None:
    """Each once, with its terms, by subject and age."""
    changes = [Change(f"subject-{number % 70:02}", "", "{}") for number in range(70)]
    for number in range(5000):
        key = Key(f"k1_{number:032x}", f"subject-{number % 70:02}", number)
        changes.append(Change(key.pseudonym, "", packed_key(key)))
    for start in range(0, len(changes), 1000):
        assert store.ask(
            (change_call("orders-api", changes[start : start + 1000]),), patience_us=MINUTE_US
        ) == [1]
    listed = [(each.key.subject, each.key.created_us) for each in office.entries()]
    assert listed == sorted((f"subject-{number % 70:02}", number) for number in range(5000))


# What a worker believes


def known(subject: str = "acme") -> Known:
    return Known(Key(key_of(subject), subject, 0), KeyEntry(subject))


def test_what_is_done_to_a_key_acts_within_two_seconds(
    rules: Policy, office: Office, store: RedisStore
) -> None:
    """An answer is asked anew after that, whether the key was known or not."""
    clock = Seconds()
    lookup = Lookup(rules, clock=clock)
    entry, _ = office.create("acme", {})
    key = entry.key.pseudonym
    assert entry_of(lookup.ask(key, store)) == KeyEntry("acme")
    office.revoke(entry.key.id)
    clock.now += BELIEVED_S - 0.001
    assert entry_of(lookup.ask(key, store)) == KeyEntry("acme")
    clock.now += 0.001
    with pytest.raises(Ended, match="the key was revoked"):
        lookup.ask(key, store)
    assert BELIEVED_S == 2
    late = Key(key_of("late"), "acme", 0)
    assert lookup.ask(late.pseudonym, store) is None
    store.ask(
        (change_call("orders-api", [Change(late.pseudonym, "", packed_key(late))]),), patience_us=MINUTE_US
    )
    clock.now += BELIEVED_S - 0.001
    assert lookup.ask(late.pseudonym, store) is None
    clock.now += 0.001
    assert entry_of(lookup.ask(late.pseudonym, store)) == KeyEntry("acme")


def test_an_answer_that_is_believed_is_not_asked_for(
    rules: Policy, office: Office, store: RedisStore, redis_server: RedisServer
) -> None:
    """A hundred requests of one key within two seconds cost one look-up."""
    lookup = Lookup(rules, clock=Seconds())
    entry, _ = office.create("acme", {})
    with redis_server.client() as client:
        client.config_resetstat()
        for _ in range(100):
            lookup.ask(entry.key.pseudonym, store)
            lookup.ask(key_of("nobody"), store)
        assert client.info("commandstats")["cmdstat_eval"]["calls"] == 2


def test_an_outage_leaves_what_was_known_for_a_minute(
    start_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Keys that were seen lately are served on; of others it is said that they cannot be checked."""
    server = start_redis()
    rules = replace(policy(store=server.url), registry=True)
    store = open_store(server.url)
    entry, _ = Office(rules, store).create("acme", {})
    clock = Seconds()
    lookup = Lookup(rules, clock=clock)
    key = entry.key.pseudonym
    assert entry_of(lookup.ask(key, store)) == KeyEntry("acme")
    server.kill()
    clock.now += BELIEVED_S + STALE_S - 0.001
    assert entry_of(lookup.ask(key, store)) == KeyEntry("acme")
    with pytest.raises(StoreUnavailable):
        lookup.ask(key_of("unseen"), store)
    clock.now += 0.001
    with pytest.raises(StoreUnavailable):
        lookup.ask(key, store)
    assert caplog.text.count("served for a minute by what was last said") == 1
    desk = desk_of(rules)
    with pytest.raises(ResolverUnavailable, match="the key cannot be checked at the moment"):
        desk.ask(asked("sk_unseen"))
    server.start()


@pytest.mark.timed
def test_an_outage_holds_no_loop_up(start_redis: Callable[..., RedisServer]) -> None:
    """A Redis that is silent costs a request the deadline, and the loop goes on meanwhile."""
    server = start_redis()
    rules = replace(policy(store=server.url, deadline_us=200_000), registry=True)

    async def ask() -> tuple[float, int]:
        store = open_async_store(server.url)
        desk = ResolverDesk(rules, open_store(server.url), store)
        assert await desk.aask(asked("sk_first")) is None
        server.freeze()
        turns, began = 0, time.monotonic()
        asking = asyncio.ensure_future(desk.aask(asked("sk_second")))
        while not asking.done():
            await asyncio.sleep(0.005)
            turns += 1
        took = time.monotonic() - began
        with pytest.raises(ResolverUnavailable):
            await asking
        server.thaw()
        await store.aclose()
        return took, turns

    took, turns = asyncio.run(ask())
    assert took < 1
    assert turns >= 10


def test_the_oldest_answers_make_room_for_their_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are made up push out no key that is known."""
    monkeypatch.setattr(recall, "MOST_KEPT", 3)
    answers = Recall()
    answers.keep("acme", known(), 1.0)
    for number in range(100):
        answers.keep(f"guess-{number}", None, 1.0)
    assert len(answers) == 4
    assert answers.find("acme", 1.0) == (known(),)
    assert answers.find("guess-99", 1.0) == (None,)
    assert answers.find("guess-96", 1.0) is None
    answers.keep("guess-99", known(), 1.0)
    assert answers.find("guess-99", 1.0) == (known(),)
    answers.keep("acme", None, 1.0)
    assert answers.find("acme", 1.0) == (None,)
    assert len(answers) == 4


# Who is asked, and what cannot be used


def test_the_resolver_is_asked_of_what_the_registry_does_not_know(rules: Policy, office: Office) -> None:
    """Of what it knows, the registry alone; a key that ended is no resolver's any more."""
    heard = []

    def resolve(key: str) -> KeyEntry | None:
        heard.append(key)
        return KeyEntry("theirs") if key == "sk_theirs" else None

    _, credential = office.create("ours", {})
    ended, ended_key = office.create("ours", {})
    office.revoke(ended.key.id)
    rules = replace(rules, resolver=resolve)
    assert both(rules, credential.reveal()) == [KeyEntry("ours")] * 2
    with pytest.raises(KeyEnded, match="the key was revoked"):
        desk_of(rules).ask(asked(ended_key.reveal()))
    assert heard == []
    assert both(rules, "sk_theirs") == [KeyEntry("theirs")] * 2
    assert both(rules, "sk_nobody") == [None, None]
    assert heard == ["sk_theirs", "sk_theirs", "sk_nobody", "sk_nobody"]


@pytest.mark.parametrize(
    ("record", "terms", "complaint"),
    [
        ("{}", "{}", "is damaged"),
        ("7", "{}", "is damaged"),
        ("no JSON", "{}", "is damaged"),
        ('{"subject":"nobody","created":1}', "{}", "are damaged"),
        ('{"subject":"acme","created":1,"expires":"soon"}', "{}", "is damaged"),
        ('{"subject":"acme","created":1}', "[]", "are damaged"),
        ('{"subject":"acme","created":1}', '{"plan":"gone"}', "a plan that the policy does not have"),
        ('{"subject":"acme","created":1}', '{"anchor":"soon"}', "soon"),
        ('{"subject":"acme","created":1}', '{"anchor":7}', "do not fit the policy"),
        ('{"subject":"acme","created":1}', '{"limits":7}', "do not fit the policy"),
        ('{"subject":"acme","created":1}', '{"limits":{"monthly":{"rate":"1/day"}}}', "do not fit"),
    ],
)
def test_a_record_that_cannot_be_used_is_said_and_serves_nobody(
    record: str,
    terms: str,
    complaint: str,
    rules: Policy,
    store: RedisStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says why; the client hears that its key cannot be checked."""
    changes = [Change(key_of("sk_one"), "", record), Change("acme", "", terms)]
    store.ask((change_call("orders-api", changes),), patience_us=MINUTE_US)
    with caplog.at_level(logging.ERROR), pytest.raises(ResolverUnavailable, match="at the moment"):
        desk_of(rules).ask(asked("sk_one"))
    assert complaint in caplog.text
    assert "sk_one" not in caplog.text


def test_a_registry_needs_redis(rules: Policy) -> None:
    """A meter in memory says so when it is made, and not at the first request."""
    with pytest.raises(PolicyError, match="keys in redis need a store in redis"):
        ResolverDesk(rules, MemoryStore(), None)
    assert ResolverDesk(replace(rules, registry=False), MemoryStore(), None).ask(asked("k")) is None


def test_a_key_reads_back_as_it_was_written() -> None:
    """With its times, where it has them."""
    for key in (Key("k1_0", "acme", 1), Key("k1_0", "Müller & Co", 1, 2, 3)):
        assert read_key("k1_0", packed_key(key).encode()) == key


# What guesses cost


def test_keys_that_are_made_up_leave_nothing_behind(
    rules: Policy, store: RedisStore, office: Office, redis_server: RedisServer
) -> None:
    """Of 200,000 Redis grows by less than 1 MB, and so does what a worker remembers."""
    _, credential = office.create("acme", {})
    with redis_server.client() as client:

        def used() -> int:
            return int(client.info("memory")["used_memory"])

        batch = 5000
        guesses = [[f"k1_{secrets.token_hex(16)}" for _ in range(batch)] for _ in range(GUESSES // batch)]
        answers = Recall()
        client.ping()
        before = used()
        for keys in guesses:
            for key, reply in zip(
                keys,
                store.ask([find_call("orders-api", key) for key in keys], patience_us=MINUTE_US),
                strict=True,
            ):
                assert found(reply) is None
                answers.keep(key, None, 0.0)
        assert used() - before < MILLION
        assert client.dbsize() == 1
        assert client.hlen("mw:keys:orders-api") == 2
    assert len(answers) == recall.MOST_KEPT
    assert both(rules, credential.reveal()) == [KeyEntry("acme")] * 2


def test_a_desk_that_is_asked_for_guesses_is_bounded(rules: Policy, redis_server: RedisServer) -> None:
    """The same through a worker's own path, look-up by look-up."""
    lookup = Lookup(rules)
    store = open_store(rules.store)
    with redis_server.client() as client:
        for _ in range(recall.MOST_KEPT + 2000):
            assert lookup.ask(f"k1_{secrets.token_hex(16)}", store) is None
        assert client.dbsize() == 0
    assert len(lookup.recall) == recall.MOST_KEPT
