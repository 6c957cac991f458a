"""The conversation, held by hand: what it asks, what it makes of the answers, and what it says in the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.admission import Answer
from meter_mw.closing import settlement, usage_event
from meter_mw.core import admit
from meter_mw.model import LARGEST_COST, Meter, Receipt
from meter_mw.periods import Period
from meter_mw.policy.identity import QueryKey, anonymous_subject
from meter_mw.policy.policy import Mode, Route, Unknown
from meter_mw.policy.terms import ChargeRules, Exemption, Failure, KeyEntry, Limit, Override, Plan, Scope
from meter_mw.quota import AT_REST, Cap, OnDeny, Rate, Slots, Span
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import (
    Admit,
    Booking,
    Outcome,
    Reading,
    Settle,
    StoreUnavailable,
    Tally,
    Verdict,
)
from meter_mw.talk import KeyEnded, Price, ResolverUnavailable
from support.policies import (
    DAY_US,
    EGRESS,
    INGRESS,
    METERS,
    REQUESTS,
    SECOND_US,
    SECRET,
    TOKENS,
    cap,
    held,
    key_of,
    policy,
    preflight,
    rate,
    request,
    route,
    slots,
)
from support.talks import NOW_US, RECEIPT, RID, admitted, begun, ended, failed, resolving, undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.model import Request
    from meter_mw.testing.stores import Clock


# What is asked of the store


def test_a_request_is_one_command() -> None:
    """All limits of plan and route are asked in one command, with the rid and the fence."""
    limited = route("/v1/files", rate(2, burst=4, name="files", route="/v1/files"), costs={"requests": 5})
    rules = policy(rate(10, burst=20), cap(1_000), routes=[limited], deadline_us=250_000)
    talk, command = begun(rules, request("/v1/files", key="k"))
    assert command.rid == RID
    assert command.not_after_us == NOW_US + 10 * 250_000
    assert [charge.id for charge in command.charges] == [
        limit.id for limit in (*rules.plans["default"].limits, *limited.limits)
    ]
    assert [(charge.need, charge.take) for charge in command.charges] == [(5, 5)] * 3
    admission = ended(talk, admitted(command))
    assert (admission.answer, admission.route, admission.rid) == (Answer.ALLOWED, limited, RID)


def test_bytes_and_reports_need_one_and_take_none() -> None:
    """What only the end will tell needs room for one unit, and is charged when it is known."""
    limits = [rate(10, meter=meter, name=meter.name) for meter in METERS]
    _, command = begun(policy(*limits), request(key="k", transfer_encoding="chunked"))
    assert [(each.need, each.take, each.held) for each in command.charges] == [
        (1, 1, False),
        (1, 0, True),
        (1, 0, True),
        (1, 0, True),
    ]
    assert command.lease_us == 120 * SECOND_US


def test_a_cap_comes_with_the_windows_of_its_caller() -> None:
    """The boundaries are those of the caller's zone and anchor; a rate has none."""
    keys = {"k": KeyEntry("acme", anchor=date(2025, 1, 31), timezone="Europe/Paris")}
    _, command = begun(policy(cap(10), rate(1), keys=keys), request(key="k"))
    windows = tuple(each * SECOND_US for each in (1_764_457_200, 1_767_135_600, 1_769_814_000, 1_772_233_200))
    assert [charge.windows for charge in command.charges] == [windows, None]


def test_the_tag_is_of_the_subject() -> None:
    """Two keys of one subject meet in the store; two subjects never do."""
    keys = {"a": KeyEntry("acme"), "b": KeyEntry("acme"), "c": KeyEntry("other")}
    rules = policy(rate(1), keys=keys)
    tags = [begun(rules, request(key=key))[1].tag for key in "abc"]
    assert tags[0] == tags[1] != tags[2]


def test_nothing_to_limit_asks_nobody() -> None:
    """A plan without limits is served without the store, and counted."""
    rules = policy()
    admission = undisturbed(rules, request(key="k"))
    assert (admission.answer, admission.serves) == (Answer.ALLOWED, True)
    assert admission.caller is not None
    assert settlement(rules, admission, RECEIPT) is None


# Each answer


def test_exempt_routes_ask_nobody() -> None:
    """An exempt route is served before the caller is looked at, and is not counted."""
    rules = policy(rate(1), routes=[route("/health", exemption=Exemption.FREE)], anonymous=None)
    admission = undisturbed(rules, request("/health"))
    assert (admission.answer, admission.serves, admission.caller) == (Answer.EXEMPT, True, None)


def test_an_odd_path_is_refused() -> None:
    """A path that could mean two routes is refused before anything is asked."""
    admission = undisturbed(policy(rate(1)), request("/v1/\nitems", key="k"))
    assert (admission.answer, admission.serves) == (Answer.ODD_PATH, False)
    assert "U+000A" in admission.reason


def test_an_odd_path_of_shadow_mode_is_counted() -> None:
    """Shadow mode refuses nobody: an odd path is metered as one that matches no route."""
    rules = policy(rate(1), mode=Mode.SHADOW)
    _, command = begun(rules, request("/v1/\nitems", key="k"))
    assert len(command.charges) == 1


def test_an_ambiguous_key_is_refused() -> None:
    """Two values of the key's field are nobody's key."""
    admission = undisturbed(policy(rate(1)), request(x_api_key=("a", "b")))
    assert (admission.answer, admission.serves) == (Answer.AMBIGUOUS, False)
    assert "x-api-key" in admission.reason


def test_no_key_where_one_is_needed() -> None:
    """Without a key, and without a rule for that, a request is not identified."""
    admission = undisturbed(policy(rate(1), anonymous=None), request())
    assert (admission.answer, admission.reason) == (Answer.UNIDENTIFIED, "this API needs a key")


def test_no_key_is_metered_by_address() -> None:
    """Without a key the client's address is the subject, on the plan for such requests."""
    public = Plan("public", (rate(1, name="public"),))
    rules = policy(plans=[public], anonymous="public", trusted_proxies=["10.0.0.0/8"])
    asked = request(peer="10.0.0.1", x_forwarded_for=("6.6.6.6, 198.51.100.7",))
    talk, command = begun(rules, asked)
    caller = ended(talk, admitted(command)).caller
    assert caller is not None
    assert caller.subject == anonymous_subject(SECRET, "198.51.100.7")
    assert (caller.plan, caller.key) == (public, None)


def test_an_unknown_address_has_one_subject() -> None:
    """Behind a Unix socket that nobody vouches for, all share one subject rather than none."""
    admission = undisturbed(policy(), request(peer=None))
    assert admission.caller is not None
    assert admission.caller.subject == anonymous_subject(SECRET, "unknown")


def test_a_listed_key_is_its_subject() -> None:
    """A listed key brings its subject, plan, account and pseudonym."""
    pro = Plan("pro")
    keys = {"k": KeyEntry("acme", "pro", "acme-group", date(2026, 1, 31), "Europe/Paris")}
    caller = undisturbed(policy(plans=[pro], keys=keys), request(key="k")).caller
    assert caller is not None
    assert (caller.subject, caller.plan, caller.account) == ("acme", pro, "acme-group")
    assert (caller.key, caller.anchor, caller.timezone) == (key_of("k"), date(2026, 1, 31), "Europe/Paris")


def test_an_unknown_key_is_its_own_subject() -> None:
    """Where unknown keys are accepted each is a subject of its own, on plan `default`."""
    caller = undisturbed(policy(), request(key="k")).caller
    assert caller is not None
    assert (caller.subject, caller.key, caller.plan.name) == (key_of("k"), key_of("k"), "default")


def test_an_unknown_key_can_be_refused() -> None:
    """Where unknown keys are refused the answer says that the key is not known, and not which it was."""
    admission = undisturbed(policy(rate(1), unknown=Unknown.REJECT), request(key="canary"))
    assert (admission.answer, admission.reason) == (Answer.UNIDENTIFIED, "the key is not known")


def test_unknown_keys_can_be_one_subject() -> None:
    """In a pool keys that are made up make up no limits; the event names the key that was used."""
    rules = policy(rate(1), unknown=Unknown.POOL)
    talks = {key: begun(rules, request(key=key)) for key in "ab"}
    callers = {key: ended(talk, admitted(command)).caller for key, (talk, command) in talks.items()}
    assert len({command.tag for _, command in talks.values()}) == 1
    for key, caller in callers.items():
        assert caller is not None
        assert (caller.subject, caller.key, caller.plan.name) == ("unknown_keys", key_of(key), "default")


def test_a_pool_shares_its_limits_by_key_too() -> None:
    """Even a limit per key is the pool's: else each guess would have a burst of its own."""
    rules = policy(replace(rate(1), scope=Scope.KEY), unknown=Unknown.POOL)
    holders = {begun(rules, request(key=key))[1].charges[0].holder for key in "abc"}
    assert len(holders) == 1


def test_a_counted_route_is_under_no_limit() -> None:
    """It is recorded with its caller, and asks no store; who calls it has to be known all the same."""
    counted = route("/internal", exemption=Exemption.COUNTED, costs={"requests": 3})
    rules = policy(cap(0), slots(1), routes=[counted], unknown=Unknown.REJECT, keys={"k": KeyEntry("acme")})
    admission = undisturbed(rules, request("/internal", key="k"))
    assert (admission.answer, admission.lines, admission.charges) == (Answer.ALLOWED, (), ())
    assert settlement(rules, admission, RECEIPT) is None
    data = usage_event(rules, admission, "GET", RECEIPT).data
    assert (data["requests"], data["response_bytes"], data["tokens"]) == (3, 9_000, 812)
    assert undisturbed(rules, request("/internal", key="x")).answer is Answer.UNIDENTIFIED


def test_a_counted_key_is_under_no_limit() -> None:
    """A key of one's own is recorded wherever it goes, and never refused for a quota."""
    keys = {"k": KeyEntry("monitor", exemption=Exemption.COUNTED)}
    rules = policy(cap(0), keys=keys, routes=[route("/x", cap(0, name="own", route="/x"))])
    admission = undisturbed(rules, request("/x", key="k"))
    assert (admission.answer, admission.lines) == (Answer.ALLOWED, ())
    assert usage_event(rules, admission, "GET", RECEIPT).subject == "monitor"


def test_a_free_key_is_not_metered() -> None:
    """It is served as on an exempt route: without limits, and without an event."""
    rules = policy(cap(0), keys={"k": KeyEntry("monitor", exemption=Exemption.FREE)})
    admission = undisturbed(rules, request(key="k"))
    assert (admission.answer, admission.caller, admission.serves) == (Answer.EXEMPT, None, True)


# What a request costs


def test_the_operators_pricing_is_asked() -> None:
    """It is asked after the caller is known, and its units are charged and recorded."""
    priced = route("/search", costs={"requests": 2}, pricing=lambda asked: 7)
    rules = policy(cap(100), routes=[priced])
    asked = request("/search", key="k")
    talk = admit(rules, asked, RID, NOW_US)
    command = next(talk)
    assert command == Price(priced, asked)
    following = talk.send((("requests", 7),))
    assert isinstance(following, Admit)
    assert [(each.need, each.take) for each in following.charges] == [(7, 7)]
    admission = ended(talk, admitted(following))
    assert usage_event(rules, admission, "GET", RECEIPT).data["requests"] == 7


def test_without_an_answer_the_price_is_the_policys() -> None:
    """A pricing of no use costs what the route says."""
    rules = policy(cap(100), routes=[route("/search", costs={"requests": 2}, pricing=lambda asked: None)])
    talk = admit(rules, request("/search", key="k"), RID, NOW_US)
    next(talk)
    following = talk.send(None)
    assert isinstance(following, Admit)
    assert [each.take for each in following.charges] == [2]


def test_prices_of_two_requests_are_not_mixed_up() -> None:
    """The compiled limits of a route are kept by what was priced."""
    rules = policy(cap(100), routes=[route("/search", pricing=lambda asked: int(asked.query))])
    store = MemoryStore(lambda: NOW_US)
    left = [
        held(rules, request("/search", key="k", query=each), store).standings[0].remaining for each in "352"
    ]
    assert left == [97, 92, 90]


def test_an_estimate_is_held_and_settled_to_the_truth(clock: Clock, store: MemoryStore) -> None:
    """What a reported meter will come to is held at admission: by the limit's reserve, or by the pricing."""
    limit = replace(cap(1_000, meter=TOKENS), reserve=500)
    priced = route("/chat", pricing=lambda asked: {"tokens": 800})
    rules = policy(limit, routes=[priced])
    first = held(rules, request("/chat", key="k"), store)
    assert [(each.need, each.take, each.held) for each in first.charges] == [(800, 800, True)]
    assert first.standings[0].remaining == 200
    denied = held(rules, request(key="k"), store)
    assert (denied.answer, denied.denied_by[0].line.need) == (Answer.DENIED, 500)
    settled = settlement(rules, first, RECEIPT)
    assert settled is not None
    store.settle([settled])
    (standing,) = held(rules, request("/chat", key="k"), store).denied_by
    assert (standing.used, standing.remaining) == (812, 188)


# Bodies that are declared


def upload(size: int | None) -> Request:
    """Make an upload that says how long it is, or is chunked."""
    if size is None:
        return request(method="PUT", key="k", transfer_encoding="chunked")
    return request(method="PUT", key="k", content_length=str(size))


def test_a_declared_upload_needs_all_of_it(clock: Clock, store: MemoryStore) -> None:
    """One that fits only in part is refused before it is read: not yet, or never."""
    rules = policy(rate(100, burst=1_000, meter=INGRESS))
    first = held(rules, upload(600), store)
    assert [(each.need, each.take, each.held) for each in first.charges] == [(600, 600, True)]
    assert first.granted == (600,)
    later = held(rules, upload(600), store)
    assert (later.answer, later.retry_after_us) == (Answer.DENIED, 2 * SECOND_US)
    never = held(rules, upload(1_001), store)
    assert (never.answer, never.retry_after_us) == (Answer.DENIED, None)
    assert held(rules, upload(0), store).serves
    assert held(rules, upload(400), store).serves


@pytest.mark.parametrize("length", ["9" * 20, "9" * 5_000, str(2**52 + 1)])
@pytest.mark.parametrize("limit", [cap(5, meter=INGRESS), rate(5, meter=INGRESS)])
def test_a_length_that_no_number_holds_is_refused_for_good(
    limit: Limit, length: str, store: MemoryStore
) -> None:
    """It is more than anyone may send, and no fault of ours."""
    denied = held(policy(limit), request(method="PUT", key="k", content_length=length), store)
    assert (denied.answer, denied.retry_after_us) == (Answer.DENIED, None)


@pytest.mark.parametrize(
    "fields", [{"content_length": ("5", "6")}, {"content_length": "-1"}, {"content_length": "5x"}]
)
def test_a_length_that_says_nothing_is_not_known(fields: dict[str, str]) -> None:
    """Servers refuse such requests; if one comes, its body is counted as it passes."""
    assert request(**fields).declared is None
    assert request().declared == 0
    assert request()._replace(frames=True).declared is None
    assert request(content_length="7", transfer_encoding="chunked").declared is None


def test_an_upload_without_a_length_holds_the_reserve(clock: Clock, store: MemoryStore) -> None:
    """It needs room for one byte, and holds as much of the reserve as there is."""
    rules = policy(replace(cap(1_000, meter=INGRESS), reserve=700))
    assert [held(rules, upload(None), store).granted for _ in range(2)] == [(700,), (300,)]
    assert not held(rules, upload(None), store).serves


def test_a_response_holds_the_reserve_and_no_more_than_there_is(clock: Clock, store: MemoryStore) -> None:
    """What is not there cannot be granted by a cap; a rate lends it."""
    both = (replace(cap(1_000, meter=EGRESS), reserve=700), replace(rate(900, meter=EGRESS), reserve=700))
    rules = policy(*both)
    assert held(rules, request(key="k"), store).granted == (700, 700)
    second = held(rules, request(key="k"), store)
    assert second.granted == (300, 700)
    assert [each.remaining for each in second.standings] == [0, 0]
    assert not held(rules, request(key="k"), store).serves


# Slots


def test_slots_are_held_one_a_request(clock: Clock, store: MemoryStore) -> None:
    """Beyond them the request is refused for a second: nobody knows how long those in flight take."""
    rules = policy(slots(2))
    first = held(rules, request(key="k"), store)
    assert [(each.need, each.take, each.held, each.quota) for each in first.charges] == [
        (1, 1, True, Slots(2))
    ]
    (standing,) = held(rules, request(key="k"), store).standings
    assert (standing.remaining, standing.reset_us, standing.used) == (0, None, 2)
    denied = held(rules, request(key="k"), store)
    assert (denied.answer, denied.retry_after_us) == (Answer.DENIED, SECOND_US)
    settled = settlement(rules, first, RECEIPT)
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [0]
    store.settle([settled])
    assert held(rules, request(key="k"), store).serves


def test_slots_come_back_when_their_lease_is_over(clock: Clock, store: MemoryStore) -> None:
    """What a dead process held is free again after two checkpoints."""
    rules = policy(slots(1), checkpoint_us=10 * SECOND_US)
    assert held(rules, request(key="k"), store).serves
    clock.move(20 * SECOND_US - 1)
    assert not held(rules, request(key="k"), store).serves
    clock.move(1)
    assert held(rules, request(key="k"), store).serves


# Beyond what is included


def billing(units: int, *, ceiling: int | None = None, grace: int = 0, warn: tuple[int, ...] = ()) -> Limit:
    """Make a cap that bills what lies beyond."""
    quota = Cap(units, Period.MONTH, grace=grace, bills=True, ceiling=ceiling, warn=warn)
    return replace(cap(units), quota=quota)


def test_the_request_that_straddles_the_line_is_split(clock: Clock, store: MemoryStore) -> None:
    """Of 7 units of which 4 are included, 3 are overage; the ceiling ends it."""
    rules = policy(billing(10, ceiling=20), routes=[route("/x", costs={"requests": 7}), route("/y")])
    assert held(rules, request("/x", key="k"), store).overage == ()
    assert held(rules, request("/x", key="k"), store).overage == (("cap", 4),)
    admission = held(rules, request("/y", key="k"), store)
    assert admission.overage == (("cap", 1),)
    assert usage_event(rules, admission, "GET", RECEIPT).data["overage"] == {"cap": 1}
    assert admission.standings[0].remaining == 0
    assert held(rules, request("/x", key="k"), store).answer is Answer.DENIED


def test_grace_is_served_and_not_billed(clock: Clock, store: MemoryStore) -> None:
    """It lies between what is included and what is refused, or billed."""
    generous = replace(cap(2), quota=Cap(2, Period.MONTH, grace=2))
    rules = policy(generous)
    answers = [held(rules, request(key="k"), store) for _ in range(5)]
    assert [each.serves for each in answers] == [True] * 4 + [False]
    rules = policy(billing(2, grace=2))
    assert [held(rules, request(key="b"), store).overage for _ in range(5)] == [()] * 4 + [(("cap", 1),)]


def test_thresholds_are_told_to_the_one_that_reaches_them(clock: Clock, store: MemoryStore) -> None:
    """Each once, and two at once where one request jumps over both."""
    warned = replace(cap(20), quota=Cap(20, Period.MONTH, warn=(4, 8, 20)))
    rules = policy(warned, routes=[route("/x", costs={"requests": 6})])
    asked = [request(key="k")] * 3 + [request("/x", key="k")] + [request(key="k")] * 11
    reached = [held(rules, each, store).reached for each in asked]
    assert {index: [one.units for one in each] for index, each in enumerate(reached) if each} == {
        3: [4, 8],
        14: [20],
    }
    assert {one.start_us for each in reached for one in each} == {NOW_US}


# Amounts of a key's own


def test_an_override_holds_until_its_day_begins_in_the_keys_zone() -> None:
    """The last µs before midnight in Paris still has it, and the count goes on."""
    override = Override("cap", Cap(20, Period.YEAR), date(2026, 2, 1))
    keys = {"k": KeyEntry("acme", timezone="Europe/Paris", overrides=(override,))}
    rules = policy(cap(10, Period.YEAR), keys=keys)
    midnight_us = (1_769_904_000 - 3_600) * SECOND_US  # 1 February 2026, 00:00 in Paris
    before, after = (
        begun(rules, request(key="k"), now_us)[1].charges[0] for now_us in (midnight_us - 1, midnight_us)
    )
    assert (before.quota, after.quota) == (Cap(20, Period.YEAR), Cap(10, Period.YEAR))
    assert before.id == after.id


def test_an_override_changes_the_amount_and_keeps_the_count(clock: Clock, store: MemoryStore) -> None:
    """Twelve of twenty stay twelve when ten are allowed again."""
    override = Override("cap", Cap(20, Period.YEAR), date(2026, 1, 2))
    rules = policy(cap(10, Period.YEAR), keys={"k": KeyEntry("acme", overrides=(override,))})
    assert [held(rules, request(key="k"), store).serves for _ in range(12)] == [True] * 12
    assert held(rules, request(key="k"), store).standings[0].remaining == 7
    clock.move(DAY_US)
    denied = held(rules, request(key="k"), store)
    assert (denied.answer, denied.standings[0].remaining, denied.standings[0].used) == (Answer.DENIED, 0, 13)


def test_an_override_without_a_date_is_for_good() -> None:
    """And one of a limit that is not there, or of another kind, changes nothing."""
    overrides = (Override("rate", Rate(5, SECOND_US, 9)), Override("gone", Cap(1, Period.DAY)))
    keys = {"k": KeyEntry("acme", overrides=(*overrides, Override("cap", Rate(1, SECOND_US, 1))))}
    _, command = begun(policy(rate(1), cap(3), keys=keys), request(key="k"))
    assert [each.quota for each in command.charges] == [Rate(5, SECOND_US, 9), Cap(3, Period.MONTH)]


# Shared pools


def scoped(scope: Scope) -> Limit:
    """Make a limit that a scope shares."""
    return replace(cap(10), scope=scope)


SHARED = {
    Scope.KEY: "abac",
    Scope.SUBJECT: "aaab",
    Scope.ACCOUNT: "aaaa",
    Scope.ROUTE: "aaba",
    Scope.EVERYONE: "aaaa",
}
"""Two keys of a subject, the first elsewhere, another subject of the account: the same letter shares."""


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_says_who_shares_a_count(scope: Scope) -> None:
    """Keys, subjects, accounts, routes, or everyone: the same holder is the same count."""
    keys = {"a": KeyEntry("acme", account="group"), "b": KeyEntry("acme", account="group")}
    keys["c"] = KeyEntry("other", account="group")
    rules = policy(scoped(scope), keys=keys, routes=[route("/x"), route("/y")])
    holders = []
    for path, key in (("/x", "a"), ("/x", "b"), ("/y", "a"), ("/x", "c")):
        _, command = begun(rules, request(path, key=key))
        holders.append(command.charges[0].holder or command.tag)
    named = dict(zip(holders, SHARED[scope], strict=True))
    assert "".join(named[each] for each in holders) == SHARED[scope]
    assert len(named) == len(set(SHARED[scope]))


@pytest.mark.parametrize("scope", [Scope.KEY, Scope.ACCOUNT])
def test_without_a_key_or_an_account_a_limit_is_the_subjects(scope: Scope) -> None:
    """A caller that has none is not limited together with all others that have none."""
    rules = policy(scoped(scope))
    commands = [begun(rules, request(peer=peer))[1] for peer in ("192.0.2.1", "192.0.2.2")]
    assert [each.charges[0].holder for each in commands] == ["", ""]
    assert commands[0].tag != commands[1].tag


def test_the_pool_of_a_key_lies_beside_its_subject() -> None:
    """It has the subject's tag, so that one command finds both in one place of a cluster."""
    _, command = begun(policy(scoped(Scope.KEY), keys={"k": KeyEntry("acme")}), request(key="k"))
    assert command.charges[0].holder.startswith(f"{command.tag}:")


def test_a_shared_cap_and_its_own_are_all_or_nothing(clock: Clock, store: MemoryStore) -> None:
    """What the account refuses is not charged to the subject, and the other way round."""
    keys = {"a": KeyEntry("one", account="group"), "b": KeyEntry("two", account="group")}
    shared = replace(cap(3, name="shared"), scope=Scope.ACCOUNT)
    rules = policy(cap(2), shared, keys=keys)
    served = [held(rules, request(key=key), store).serves for key in "aaabbb"]
    assert served == [True, True, False, True, False, False]
    assert [each.used for each in held(rules, request(key="b"), store).standings] == [1, 3]
    assert [each.used for each in held(rules, request(key="a"), store).standings] == [2, 3]


@pytest.mark.parametrize(
    ("scope", "own"), [(each, each.value in ("key", "subject", "account")) for each in Scope]
)
def test_the_windows_of_wider_pools_are_the_policys(scope: Scope, own: bool) -> None:
    """A count that strangers share cannot follow the zone and the anchor of one of them."""
    keys = {"k": KeyEntry("acme", account="group", anchor=date(2025, 1, 10), timezone="Asia/Tokyo")}
    rules = policy(scoped(scope), keys=keys, timezone="Europe/Paris")
    _, command = begun(rules, request(key="k"))
    assert command.charges[0].windows is not None
    tokyo, paris = 1_765_292_400, 1_767_222_000  # 10 December in Tokyo, 1 January in Paris
    assert (
        command.charges[0].windows[1]
        == (paris if scope in (Scope.ROUTE, Scope.EVERYONE) else tokyo) * SECOND_US
    )


# What is charged for


def test_the_rules_of_a_route_come_before_those_of_the_policy() -> None:
    """Also those of what a refused request counts against."""
    rules = policy(
        rate(1),
        charge=ChargeRules(on_deny=OnDeny.ALL),
        routes=[route("/x", charge=ChargeRules(on_deny=OnDeny.SELF))],
    )
    found = [begun(rules, request(path, key="k"))[1].on_deny for path in ("/x", "/y")]
    assert found == [OnDeny.SELF, OnDeny.ALL]


def test_a_refused_request_can_count_against_rates(clock: Clock, store: MemoryStore) -> None:
    """With `on_deny: all` knocking goes on costing; caps count only what is served."""
    rules = policy(rate(1, burst=3), cap(1), charge=ChargeRules(on_deny=OnDeny.ALL))
    for _ in range(5):
        last = held(rules, request(key="k"), store)
    assert [(each.remaining, each.used) for each in last.standings] == [(0, None), (0, 1)]


# The resolver


def test_the_resolver_is_asked_about_unlisted_keys() -> None:
    """It is asked with the key and its pseudonym, and its entry says who calls and on what terms."""
    pro = Plan("pro", (rate(5),))
    rules = policy(plans=[pro], resolver=lambda key: None)
    talk, command = resolving(rules, request(key="k"))
    assert (command.key, command.credential.reveal()) == (key_of("k"), "k")
    asked = talk.send(KeyEntry("acme", "pro"))
    assert isinstance(asked, Admit)
    caller = ended(talk, admitted(asked)).caller
    assert caller is not None
    assert (caller.subject, caller.plan, caller.key) == ("acme", pro, key_of("k"))


def test_the_resolver_is_not_asked_about_listed_keys() -> None:
    """The policy's own list comes first."""
    rules = policy(keys={"k": KeyEntry("acme")}, resolver=lambda key: None)
    caller = undisturbed(rules, request(key="k")).caller
    assert caller is not None
    assert caller.subject == "acme"


def test_a_key_that_the_resolver_does_not_know() -> None:
    """`None` leaves the key to the rule for unknown ones."""
    talk, _ = resolving(policy(resolver=lambda key: None), request(key="k"))
    accepted = ended(talk, None)
    assert accepted.caller is not None
    assert accepted.caller.subject == key_of("k")
    talk, _ = resolving(policy(resolver=lambda key: None, unknown=Unknown.REJECT), request(key="k"))
    assert ended(talk, None).answer is Answer.UNIDENTIFIED


def test_an_outage_of_the_resolver_refuses() -> None:
    """Who a key belongs to is never guessed: without an answer the request is put off."""
    talk, _ = resolving(policy(rate(1), resolver=lambda key: None), request(key="k"))
    admission = failed(talk, ResolverUnavailable("the key cannot be checked at the moment"))
    assert (admission.answer, admission.serves) == (Answer.UNAVAILABLE, False)
    assert (admission.reason, admission.caller) == ("the key cannot be checked at the moment", None)


def test_a_key_that_has_ended_is_refused() -> None:
    """Also where unknown keys are accepted: it is known, and no longer good."""
    talk, _ = resolving(policy(rate(1), resolver=lambda key: None), request(key="k"))
    admission = failed(talk, KeyEnded("the key was revoked"))
    assert (admission.answer, admission.reason) == (Answer.UNIDENTIFIED, "the key was revoked")


# The store's answers


def test_the_standings_are_what_is_left() -> None:
    """Remaining and reset are told for every limit, as of after the charge."""
    rules = policy(rate(10, burst=5), cap(100, Period.DAY))
    talk, command = begun(rules, request(key="k"))
    midnight = NOW_US
    tally = Tally(
        Verdict.ADMITTED,
        NOW_US + 7,
        (
            Reading(Span(NOW_US + 200_007, 0)),
            Reading(Span(midnight, 41), until_us=midnight + DAY_US, granted=1),
        ),
    )
    admission = ended(talk, tally)
    assert [(each.remaining, each.reset_us, each.wait_us) for each in admission.standings] == [
        (3, 200_000, 0),
        (59, DAY_US - 7, 0),
    ]
    assert (admission.now_us, admission.windows) == (NOW_US + 7, (0, midnight))
    assert admission.denied_by == ()
    assert admission.retry_after_us is None
    assert command.charges == admission.charges


def test_a_denial_names_what_had_no_room() -> None:
    """Only limits without room deny; the wait is the longest of theirs."""
    rules = policy(
        rate(10, burst=5),
        cap(100, Period.DAY),
        rate(1, burst=9, name="slow"),
        cap(50, Period.HOUR, name="hour"),
    )
    talk, _ = begun(rules, request(key="k"))
    tally = Tally(
        Verdict.DENIED,
        NOW_US,
        (
            Reading(Span(NOW_US + 500_000, 0), fits=False),
            Reading(Span(NOW_US, 3)),
            Reading(Span(NOW_US, 0)),
            Reading(Span(NOW_US, 50), fits=False, until_us=NOW_US + 3_600 * SECOND_US),
        ),
    )
    admission = ended(talk, tally)
    assert (admission.answer, admission.serves) == (Answer.DENIED, False)
    assert [each.line.limit.name for each in admission.denied_by] == ["rate", "hour"]
    assert [each.wait_us for each in admission.standings] == [100_000, 0, 0, 3_600 * SECOND_US]
    assert [each.remaining for each in admission.standings] == [0, 97, 9, 0]
    assert admission.retry_after_us == 3_600 * SECOND_US
    assert settlement(rules, admission, RECEIPT) is None


@pytest.mark.parametrize("limit", [rate(1, burst=4), cap(4, Period.DAY)])
def test_never_has_no_wait(limit: Limit) -> None:
    """A cost above the burst or the cap itself is not to be retried, whatever the other limits say."""
    rules = policy(limit, rate(1, burst=9, name="slow"), routes=[route("/x", costs={"requests": 5})])
    talk, _ = begun(rules, request("/x", key="k"))
    state = AT_REST if isinstance(limit.quota, Rate) else Span(NOW_US, 0)
    slow = Reading(Span(NOW_US + 9 * SECOND_US, 0), fits=False)
    admission = ended(talk, Tally(Verdict.DENIED, NOW_US, (Reading(state, fits=False), slow)))
    assert [each.wait_us for each in admission.denied_by] == [None, 5 * SECOND_US]
    assert admission.retry_after_us is None


@pytest.mark.parametrize("verdict", [Verdict.LATE, Verdict.REFRESH])
def test_a_clock_that_was_guessed_wrong_is_corrected(verdict: Verdict) -> None:
    """The store is asked again, with the fence and the windows around the time that it told."""
    rules = policy(cap(5, Period.DAY))
    talk, first = begun(rules, request(key="k"))
    later_us = NOW_US + 3 * DAY_US + 5
    second = talk.send(Tally(verdict, later_us))
    assert isinstance(second, Admit)
    assert second.rid == first.rid
    assert second.not_after_us == later_us + 10 * rules.deadline_us
    assert second.charges[0].windows is not None
    assert second.charges[0].windows[1] == NOW_US + 3 * DAY_US
    admission = ended(talk, admitted(second, later_us))
    assert (admission.answer, admission.now_us) == (Answer.ALLOWED, later_us)
    assert admission.windows == (NOW_US + 3 * DAY_US,)


@pytest.mark.parametrize("verdict", [Verdict.LATE, Verdict.REFRESH])
def test_a_store_whose_clock_runs_away_is_left(verdict: Verdict) -> None:
    """After three rounds the store counts as away; the time that it told last is the best there is."""
    talk, _ = begun(policy(cap(5, Period.DAY, on=Failure.OPEN)), request(key="k"))
    talk.send(Tally(verdict, NOW_US + DAY_US))
    talk.send(Tally(verdict, NOW_US + 5 * DAY_US))
    admission = ended(talk, Tally(verdict, NOW_US + 9 * DAY_US))
    assert (admission.answer, admission.standings) == (Answer.ALLOWED, ())
    assert admission.now_us == NOW_US + 9 * DAY_US
    assert admission.windows == (NOW_US + 9 * DAY_US,)


def test_an_outage_after_a_correction_keeps_the_corrected_time() -> None:
    """What is served then is booked in the window of the store's time, not of the wrong guess."""
    rules = policy(cap(5, Period.HOUR, on=Failure.OPEN))
    talk, _ = begun(rules, request(key="k"))
    talk.send(Tally(Verdict.REFRESH, NOW_US + 9 * DAY_US))
    admission = failed(talk, StoreUnavailable("gone"))
    assert (admission.now_us, admission.windows) == (NOW_US + 9 * DAY_US, (NOW_US + 9 * DAY_US,))
    settled = settlement(rules, admission, RECEIPT)
    assert settled is not None
    assert [each.window_us for each in settled.bookings] == [NOW_US + 9 * DAY_US]


def test_a_void_admission_is_an_outage() -> None:
    """A rid that was cancelled is not asked about again: the limits say what happens."""
    talk, _ = begun(policy(rate(1), cap(1)), request(key="k"))
    assert ended(talk, Tally(Verdict.VOID, NOW_US)).answer is Answer.UNAVAILABLE
    talk, _ = begun(policy(rate(1)), request(key="k"))
    assert ended(talk, Tally(Verdict.VOID, NOW_US)).answer is Answer.ALLOWED


# The store is away


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ((Failure.OPEN, Failure.OPEN), Answer.ALLOWED),
        ((Failure.OPEN, Failure.CLOSED), Answer.UNAVAILABLE),
        ((Failure.CLOSED, Failure.OPEN), Answer.UNAVAILABLE),
        ((Failure.CLOSED, Failure.CLOSED), Answer.UNAVAILABLE),
    ],
)
def test_each_limit_says_what_an_outage_means(failures: tuple[Failure, Failure], expected: Answer) -> None:
    """A request is served without the store only where every limit of it is open."""
    rules = policy(rate(1, on=failures[0]), cap(1, on=failures[1]))
    talk, command = begun(rules, request(key="k"))
    admission = failed(talk, StoreUnavailable("gone"))
    assert admission.answer is expected
    assert (admission.standings, admission.denied_by, admission.charges) == ((), (), command.charges)
    assert "cannot be checked" in admission.reason


def test_what_was_served_without_the_store_is_booked() -> None:
    """The whole of it, in the window that was current: a rate has none."""
    rules = policy(rate(5), cap(5, on=Failure.OPEN), rate(9, meter=EGRESS, name="egress"))
    talk, command = begun(rules, request(key="k"))
    settled = settlement(rules, failed(talk, StoreUnavailable("gone")), RECEIPT)
    assert settled == Settle(
        RID,
        command.tag,
        (
            Booking(command.charges[0], 1, 0),
            Booking(command.charges[1], 1, NOW_US),
            Booking(command.charges[2], 9_000, 0),
        ),
    )


# Shadow mode


def test_what_is_in_shadow_refuses_nobody() -> None:
    """It says what it would have done in the event, and is not in the fields; the others are as ever."""
    strict = replace(rate(1), shadow=True)
    rules = policy(strict, cap(5))
    talk, command = begun(rules, request(key="k"))
    assert [each.shadow for each in command.charges] == [True, False]
    readings = (
        Reading(Span(NOW_US + SECOND_US, 0), fits=False),
        Reading(Span(NOW_US, 3), until_us=NOW_US + DAY_US, granted=1),
    )
    admission = ended(talk, Tally(Verdict.ADMITTED, NOW_US, readings))
    assert (admission.answer, admission.denied_by, admission.retry_after_us) == (Answer.ALLOWED, (), None)
    assert [each.line.limit.name for each in admission.would_deny] == ["rate"]
    assert usage_event(rules, admission, "GET", RECEIPT).data["would_deny"] == ["rate"]


def test_a_limit_in_shadow_has_a_count_of_its_own() -> None:
    """Enforcing it later begins with a fresh count, as what was refused in shadow was served."""
    assert replace(cap(5), shadow=True).id != cap(5).id


def test_shadow_says_nothing_of_overage_and_thresholds() -> None:
    """What it counts beyond what is included is nobody's bill."""
    quota = Cap(5, Period.MONTH, bills=True, warn=(4,))
    talk, _ = begun(policy(replace(cap(5), quota=quota, shadow=True)), request(key="k"))
    reading = Reading(Span(NOW_US, 6), until_us=NOW_US + DAY_US, granted=1, overage=1, warned=(0, 4))
    admission = ended(talk, Tally(Verdict.ADMITTED, NOW_US, (reading,)))
    assert (admission.overage, admission.reached) == ((), ())


def test_shadow_serves_without_the_store() -> None:
    """A closed limit closes nothing there; what is served is booked when the store is back."""
    rules = policy(replace(cap(1), shadow=True))
    talk, _ = begun(rules, request(key="k"))
    admission = failed(talk, StoreUnavailable("gone"))
    assert admission.answer is Answer.ALLOWED
    assert settlement(rules, admission, RECEIPT) is not None


@pytest.mark.parametrize("asked", [request(), request(x_api_key=("a", "b")), request(key="unknown")])
def test_shadow_mode_serves_who_is_not_identified(asked: Request) -> None:
    """A request that would be refused for its key is metered as an anonymous one."""
    rules = policy(rate(1), anonymous=None, unknown=Unknown.REJECT, mode=Mode.SHADOW)
    talk, command = begun(rules, asked)
    admission = ended(talk, admitted(command))
    assert admission.caller is not None
    assert (admission.answer, admission.caller.subject) == (Answer.ALLOWED, "anon_nobody")
    assert admission.caller.key is None


# Preflights


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("plan", [None, "default"])
def test_preflights_are_never_refused(mode: Mode, plan: str | None) -> None:
    """A CORS preflight asks no store and needs no key, and is recorded as costing nothing."""
    rules = policy(cap(0), anonymous=plan, unknown=Unknown.REJECT, mode=mode)
    admission = undisturbed(rules, preflight())
    assert (admission.answer, admission.charges) == (Answer.ALLOWED, ())
    assert settlement(rules, admission, RECEIPT) is None
    assert usage_event(rules, admission, "OPTIONS", RECEIPT).data["requests"] == 0
    event = usage_event(rules, admission, "OPTIONS", RECEIPT)
    assert event.subject == ("anon_nobody" if plan is None else anonymous_subject(SECRET, "192.0.2.7"))


def test_a_key_in_the_query_of_a_preflight_is_that_of_the_request_to_come() -> None:
    """Browsers send the URL with a preflight, query and all: it is refused and charged no more for that."""
    rules = policy(cap(0), anonymous=None, unknown=Unknown.REJECT, places=(QueryKey("api_key"),))
    admission = undisturbed(rules, preflight()._replace(query="api_key=k"))
    assert (admission.answer, admission.charges) == (Answer.ALLOWED, ())


def test_a_request_with_a_key_is_no_preflight() -> None:
    """Browsers send no key with a preflight; one that has a key is metered like any other."""
    rules = policy(cap(0), anonymous=None, unknown=Unknown.REJECT)
    assert undisturbed(rules, preflight(x_api_key="unknown")).answer is Answer.UNIDENTIFIED
    _, command = begun(policy(cap(0)), preflight(x_api_key="k"))
    assert [each.need for each in command.charges] == [1]


def test_other_options_are_ordinary_requests() -> None:
    """OPTIONS without an origin and the asked method is limited like any request."""
    _, command = begun(policy(rate(1)), request(method="OPTIONS", origin="https://app.example"))
    assert len(command.charges) == 1


# With a store: what is promised is kept


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """Give a store on a clock that only the test moves."""
    return MemoryStore(clock)


KINDS: dict[str, Callable[[], Limit]] = {
    "rate": lambda: rate(3, burst=4),
    "slow rate": lambda: rate(7, period_us=60 * SECOND_US, burst=3),
    **{f"cap/{period.word}": lambda period=period: cap(4, period) for period in Period},
}


def seconds_of(wait_us: int | None) -> int:
    """Give the whole seconds that a client is told, as `Retry-After` has no parts of one."""
    assert wait_us is not None
    return -(-wait_us // SECOND_US)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cost", [1, 3])
def test_a_retry_after_the_wait_is_admitted(kind: str, cost: int, clock: Clock, store: MemoryStore) -> None:
    """Sleep exactly what was said, retry, and be admitted; a microsecond earlier is too early."""
    rules = policy(KINDS[kind](), routes=[route("/x", costs={"requests": cost})])
    asked = request("/x", key="k")
    clock.move(1_234_567)
    for _ in range(3):
        while (admission := held(rules, asked, store)).serves:
            pass
        wait_us = admission.retry_after_us
        assert wait_us is not None
        clock.move(wait_us - 1)
        assert not held(rules, asked, store).serves
        clock.move(1)
        assert held(rules, asked, store).serves


@pytest.mark.parametrize("meter", [INGRESS, EGRESS, TOKENS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_after_a_debt_is_admitted(kind: str, meter: Meter, clock: Clock, store: MemoryStore) -> None:
    """What was booked beyond a limit is waited for, and then the next request fits."""
    limit = replace(KINDS[kind](), meter=meter)
    rules, asked = policy(limit), request(key="k", transfer_encoding="chunked")
    first = held(rules, asked, store)
    assert first.serves
    settled = settlement(rules, first, Receipt(50, 50, {"tokens": 50}, 200, 1))
    assert settled is not None
    assert [each.outcome for each in store.settle([settled])] == [Outcome.APPLIED]
    denied = held(rules, asked, store)
    assert denied.answer is Answer.DENIED
    clock.move(seconds_of(denied.retry_after_us) * SECOND_US)
    assert held(rules, asked, store).serves


@settings(max_examples=60)
@given(data=st.data())
def test_a_retry_after_many_limits_is_admitted(data: st.DataObject) -> None:
    """Whatever mix of limits denied, after the longest of their waits all of them have room."""
    names = [f"limit-{number}" for number in range(data.draw(st.integers(1, 5)))]
    limits = [
        replace(
            KINDS[data.draw(st.sampled_from([kind for kind in KINDS if "year" not in kind]))](), name=name
        )
        for name in names
    ]
    rules, asked = policy(*limits), request(key="k")
    now_us = [NOW_US]
    store = MemoryStore(lambda: now_us[0])
    for gap_us in data.draw(st.lists(st.integers(0, 3 * SECOND_US), min_size=1, max_size=12)):
        now_us[0] += gap_us
        admission = held(rules, asked, store)
        if not admission.serves:
            wait_us = admission.retry_after_us
            assert wait_us is not None
            now_us[0] += wait_us - 1
            assert not held(rules, asked, store).serves
            now_us[0] += 1
            assert held(rules, asked, store).serves


def test_a_denial_changes_nothing(clock: Clock, store: MemoryStore) -> None:
    """A request that one limit denies is charged to none of the others."""
    rules = policy(rate(1, burst=2), cap(10))
    asked = request(key="k")
    assert [held(rules, asked, store).serves for _ in range(6)] == [True, True] + [False] * 4
    assert [each.remaining for each in held(rules, asked, store).standings] == [0, 8]


def test_shadow_charges_only_what_it_would_have_served(clock: Clock, store: MemoryStore) -> None:
    """Its counts stand where they would if it had refused."""
    rules = policy(*(replace(each, shadow=True) for each in (rate(1, burst=2), cap(10))))
    asked = request(key="k")
    admissions = [held(rules, asked, store) for _ in range(6)]
    for admission in admissions:
        settled = settlement(rules, admission, RECEIPT)
        assert settled is not None
        assert (settled.bookings == ()) is bool(admission.would_deny)
        store.settle([settled])
    assert all(each.serves for each in admissions)
    assert [bool(each.would_deny) for each in admissions] == [False, False] + [True] * 4
    assert [each.remaining for each in held(rules, asked, store).standings] == [0, 8]


def test_two_subjects_never_share_a_limit(clock: Clock, store: MemoryStore) -> None:
    """What one has used up the other still has."""
    rules = policy(cap(1))
    assert held(rules, request(key="a"), store).serves
    assert not held(rules, request(key="a"), store).serves
    assert held(rules, request(key="b"), store).serves


def test_the_largest_cost_is_held() -> None:
    """A route may cost 2^52; the store counts it exactly."""
    limit = Limit("cap", REQUESTS, Cap(LARGEST_COST, Period.DAY), Failure.CLOSED)
    dear = Route("dear", route("/x").template, costs=(("requests", LARGEST_COST),))
    rules = policy(limit, routes=[dear, route("/y")])
    store = MemoryStore(lambda: NOW_US)
    assert held(rules, request("/x", key="k"), store).serves
    assert not held(rules, request("/y", key="k"), store).serves
