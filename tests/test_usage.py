"""What a caller is told of its own usage, by every edge, and that asking changes nothing."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import http_sf
import pytest

from meter_mw import usage
from meter_mw.admission import Admission, Answer
from meter_mw.asgi import MeterMiddleware as AsgiMeter
from meter_mw.meter import METER, Meter
from meter_mw.model import MeterError
from meter_mw.periods import Period
from meter_mw.policy.policy import Mode, Unknown
from meter_mw.policy.terms import Exemption, KeyEntry, Limit, OnExhausted, Override, Plan, Scope
from meter_mw.quota import Cap, Rate
from meter_mw.reporting import Usage
from meter_mw.reporting import usage as asked_about
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Reading, StoreUnavailable, Tally, Verdict
from meter_mw.talk import KeyEnded, Peek, Resolve, ResolverUnavailable
from meter_mw.wsgi import MeterMiddleware as WsgiMeter
from support.policies import (
    DAY_US,
    EGRESS,
    SECOND_US,
    cap,
    held,
    policy,
    rate,
    request,
    route,
    slots,
)
from support.talks import NOW_US, RID, ended, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meter_mw.model import Request
    from meter_mw.policy.policy import Policy
    from meter_mw.testing.stores import Clock


def told(rules: Policy, asked: Request, store: MemoryStore) -> dict[str, object]:
    """Hold the conversation with a store, and give the document."""
    found = looked(rules, asked, store)
    assert isinstance(found, Usage)
    return json.loads(json.dumps(usage.document(found)))  # type: ignore[no-any-return]


def looked(rules: Policy, asked: Request, store: MemoryStore) -> Usage | Admission:
    """Hold the conversation with a store that is looked at only."""
    talk = asked_about(rules, asked, RID, store.now_us())
    try:
        command = next(talk)
        while True:
            assert isinstance(command, Peek)
            command = talk.send(store.peek(command.tag, command.charges))
    except StopIteration as end:
        found = end.value
        assert isinstance(found, Usage | Admission)
        return found


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """Give a store on a clock that only the test moves."""
    return MemoryStore(clock)


# What is told


def test_a_caller_is_told_of_all_its_limits(clock: Clock, store: MemoryStore) -> None:
    """A rate, a cap and slots, with what is used and left of each, and when it is back."""
    keys = {"k": KeyEntry("acme", account="group")}
    rules = policy(rate(10, burst=20), cap(100, Period.DAY), slots(3), keys=keys)
    clock.move(500_000)
    for _ in range(2):
        held(rules, request(key="k"), store)
    assert told(rules, request(key="k"), store) == {
        "subject": "acme",
        "plan": "default",
        "account": "group",
        "time": "2026-01-01T00:00:00.500000Z",
        "limits": [
            {
                "name": "rate",
                "meter": "requests",
                "scope": "subject",
                "kind": "rate",
                "limit": 10,
                "window": 1,
                "burst": 20,
                "remaining": 18,
                "reset_in_s": 1,
            },
            {
                "name": "cap",
                "meter": "requests",
                "scope": "subject",
                "kind": "cap",
                "limit": 100,
                "period": "day",
                "used": 2,
                "remaining": 98,
                "since": "2026-01-01T00:00:00Z",
                "resets_at": "2026-01-02T00:00:00Z",
                "reset_in_s": 86_400,
            },
            {
                "name": "slots",
                "meter": "concurrent",
                "scope": "subject",
                "kind": "concurrent",
                "limit": 3,
                "used": 2,
                "remaining": 1,
            },
        ],
    }


def test_a_reset_is_the_close_of_the_period_in_the_keys_zone(store: MemoryStore) -> None:
    """From its anchor, whether anything was used or not."""
    keys = {"k": KeyEntry("acme", anchor=date(2025, 1, 31), timezone="Europe/Paris")}
    (limit,) = limits_of(policy(cap(5), keys=keys), "k", store)
    assert (limit["since"], limit["resets_at"]) == ("2025-12-30T23:00:00Z", "2026-01-30T23:00:00Z")
    assert (limit["used"], limit["reset_in_s"]) == (0, 30 * 86_400 - 3_600)


def limits_of(rules: Policy, key: str, store: MemoryStore) -> list[dict[str, object]]:
    """Give what a key is told of its limits."""
    limits = told(rules, request(key=key), store)["limits"]
    assert isinstance(limits, list)
    return limits


def test_overage_is_what_lies_beyond_what_is_included(store: MemoryStore) -> None:
    """Grace belongs to what is included; the ceiling is told where there is one."""
    quota = Cap(2, Period.MONTH, grace=1, bills=True, ceiling=9)
    rules = policy(replace(cap(2), quota=quota))
    found = []
    for _ in range(5):
        held(rules, request(key="k"), store)
        (limit,) = limits_of(rules, "k", store)
        found.append((limit["used"], limit["remaining"], limit["overage"]))
    assert found == [(1, 1, 0), (2, 0, 0), (3, 0, 0), (4, 0, 1), (5, 0, 2)]
    assert (limit["limit"], limit["grace"], limit["included"], limit["ceiling"]) == (2, 1, 3, 9)
    assert "overage" not in limits_of(policy(cap(2)), "k", store)[0]


def test_an_amount_of_its_own_is_told_with_its_last_day(clock: Clock, store: MemoryStore) -> None:
    """After that the plan's is told again, with the same count."""
    overrides = (
        Override("cap", Cap(20, Period.MONTH), date(2026, 1, 3)),
        Override("rate", Rate(5, SECOND_US, 5)),
    )
    rules = policy(cap(10), rate(1), keys={"k": KeyEntry("acme", overrides=overrides)})
    for _ in range(4):
        held(rules, request(key="k"), store)
    own, fast = limits_of(rules, "k", store)
    assert (own["limit"], own["used"], own["until"]) == (20, 4, "2026-01-03")
    assert (fast["limit"], "until" in fast) == (5, False)
    clock.move(2 * DAY_US)
    plain, _ = limits_of(rules, "k", store)
    assert (plain["limit"], plain["used"], "until" in plain) == (10, 4, False)


def test_limits_of_routes_say_where_they_are(store: MemoryStore) -> None:
    """Each under its route; those of exempt routes, and those that cost nothing, are not there."""
    own = rate(2, burst=4, name="files", route="/files")
    rules = policy(
        cap(9),
        routes=[
            route("/files", own, costs={"requests": 2}),
            route("/free", cap(1, name="zero", route="/free"), costs={"requests": 0}),
            route("/internal", exemption=Exemption.COUNTED),
        ],
    )
    held(rules, request("/files", key="k"), store)
    found = [(each["name"], each.get("route"), each["remaining"]) for each in limits_of(rules, "k", store)]
    assert found == [("cap", None, 7), ("files", "/files", 2)]


def test_a_plans_limit_of_scope_route_counts_on_each(store: MemoryStore) -> None:
    """One entry a route, also for all that no route matches."""
    shared = replace(cap(9, name="shared"), scope=Scope.ROUTE)
    rules = policy(shared, cap(99), routes=[route("/x"), route("/y"), route("/z", exemption=Exemption.FREE)])
    for path in ("/x", "/x", "/other"):
        held(rules, request(path, key="k"), store)
    found = {each.get("route"): each["used"] for each in limits_of(rules, "k", store)}
    assert found == {None: 3, "/x": 2, "/y": 0, "<unmatched>": 1}


def test_shared_pools_are_told_as_the_fields_do(store: MemoryStore) -> None:
    """What is left of an account's pool is what is left for its keys."""
    keys = {key: KeyEntry(key, account="group") for key in "ab"}
    rules = policy(replace(cap(9), scope=Scope.ACCOUNT), keys=keys)
    held(rules, request(key="a"), store)
    (limit,) = limits_of(rules, "b", store)
    assert (limit["scope"], limit["used"], limit["remaining"]) == ("account", 1, 8)


def test_shadow_is_not_told(store: MemoryStore) -> None:
    """What refuses nobody is the operator's business."""
    rules = policy(replace(cap(1, name="shadow"), shadow=True), cap(9))
    assert [each["name"] for each in limits_of(rules, "k", store)] == ["cap"]


@pytest.mark.parametrize("exemption", [Exemption.COUNTED, Exemption.FREE])
def test_who_is_exempt_has_no_limits(exemption: Exemption, store: MemoryStore) -> None:
    """It is told its plan, and that is all."""
    rules = policy(cap(9), keys={"k": KeyEntry("monitor", exemption=exemption)})
    assert told(rules, request(key="k"), store)["limits"] == []


def test_a_key_is_told_of_its_own_only(store: MemoryStore) -> None:
    """Neither of another key's usage, nor of another plan."""
    rules = policy(cap(9), plans=[Plan("pro", (cap(99, name="pro"),))], keys={"p": KeyEntry("pro", "pro")})
    for _ in range(3):
        held(rules, request(key="a"), store)
    assert [each["used"] for each in limits_of(rules, "a", store)] == [3]
    assert [each["used"] for each in limits_of(rules, "b", store)] == [0]
    assert [each["name"] for each in limits_of(rules, "p", store)] == ["pro"]


def test_without_a_key_the_address_is_told(store: MemoryStore) -> None:
    """Where anonymous requests are metered, each address has its own usage."""
    rules = policy(cap(9))
    held(rules, request(), store)
    mine = told(rules, request(), store)
    assert str(mine["subject"]).startswith("anon_")
    assert [each["used"] for each in mine["limits"]] == [1]  # type: ignore[attr-defined]
    other = told(rules, request(peer="192.0.2.99"), store)
    assert [each["used"] for each in other["limits"]] == [0]  # type: ignore[attr-defined]


MANY: tuple[Limit, ...] = (
    rate(7, burst=9),
    cap(20),
    replace(cap(5, name="bills"), quota=Cap(5, Period.DAY, bills=True, warn=(1, 2))),
    slots(30),
    replace(cap(10**6, meter=EGRESS, name="egress"), reserve=500, on_exhausted=OnExhausted.CUT),
    replace(cap(50, name="all"), scope=Scope.EVERYONE),
)


def test_asking_changes_nothing(clock: Clock, store: MemoryStore) -> None:
    """Fifty answers are the same, and the state of the store is what it was before."""
    rules = policy(*MANY)
    for _ in range(4):
        held(rules, request(key="k"), store)
    admission = held(rules, request(key="k"), store)
    assert admission.caller is not None
    before = store.peek(admission.caller.tag, admission.charges)
    answers = [told(rules, request(key="k"), store) for _ in range(50)]
    assert answers == answers[:1] * 50
    assert store.peek(admission.caller.tag, admission.charges) == before
    holders = set(store._holders)
    told(rules, request(key="stranger"), store)
    assert set(store._holders) == holders


# Who cannot be told


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (request(), Answer.UNIDENTIFIED),
        (request(key="unknown"), Answer.UNIDENTIFIED),
        (request(x_api_key=("a", "b")), Answer.AMBIGUOUS),
    ],
)
def test_nobody_is_refused(asked: Request, answer: Answer, mode: Mode, store: MemoryStore) -> None:
    """Whoever is not identified has no usage to be told, in shadow mode too."""
    rules = policy(cap(9), anonymous=None, unknown=Unknown.REJECT, mode=mode)
    found = looked(rules, asked, store)
    assert isinstance(found, Admission)
    assert (found.answer, found.caller) == (answer, None)


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        (ResolverUnavailable("gone"), Answer.UNAVAILABLE),
        (KeyEnded("revoked"), Answer.UNIDENTIFIED),
    ],
)
def test_a_key_that_cannot_be_resolved_is_refused(failure: Exception, answer: Answer) -> None:
    """As the request itself would be."""
    talk = asked_about(policy(cap(9), resolver=lambda key: None), request(key="k"), RID, NOW_US)
    assert isinstance(next(talk), Resolve)
    found = failed(talk, failure)
    assert isinstance(found, Admission)
    assert found.answer is answer


def test_without_the_store_nothing_is_told() -> None:
    """Usage is not guessed."""
    talk = asked_about(policy(cap(9)), request(key="k"), RID, NOW_US)
    next(talk)
    found = failed(talk, StoreUnavailable("gone"))
    assert isinstance(found, Admission)
    assert found.answer is Answer.UNAVAILABLE


def test_windows_are_sent_again_when_the_clock_was_guessed_wrong() -> None:
    """Three times at most."""
    talk = asked_about(policy(cap(9)), request(key="k"), RID, NOW_US)
    first = next(talk)
    second = talk.send(Tally(Verdict.REFRESH, NOW_US + 70 * DAY_US))
    assert isinstance(first, Peek)
    assert isinstance(second, Peek)
    assert first.charges[0].windows != second.charges[0].windows
    talk.send(Tally(Verdict.REFRESH, NOW_US))
    found = ended(talk, Tally(Verdict.REFRESH, NOW_US))
    assert isinstance(found, Admission)
    talk = asked_about(policy(rate(9)), request(key="k"), RID, NOW_US)
    next(talk)
    assert isinstance(ended(talk, Tally(Verdict.ADMITTED, NOW_US, (Reading(),))), Usage)


# The edges


def make(tmp_path: Path, *limits: Limit, **more: object) -> Policy:
    """Make a policy with an exempt route for the endpoint."""
    routes = [route("/usage", exemption=Exemption.FREE)]
    return policy(*limits, routes=routes, journal=tmp_path / "journal", **more)  # type: ignore[arg-type]


def over_asgi(rules: Policy, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    """Ask the endpoint in an ASGI app."""
    app = AsgiMeter(usage.asgi, rules)
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    scope = {"type": "http", "method": method, "path": "/usage", "query_string": b"", "headers": headers}
    asyncio.run(app({**scope, "client": ("192.0.2.7", 5), "http_version": "1.1"}, receive, send))  # type: ignore[arg-type]
    app.meter.close()
    start, *bodies = sent
    raw = start["headers"]
    assert isinstance(raw, list)
    answered = {name.decode(): value.decode() for name, value in raw}
    status = start["status"]
    assert isinstance(status, int)
    return status, answered, b"".join(each["body"] for each in bodies)  # type: ignore[misc]


def over_wsgi(rules: Policy, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    """Ask the endpoint in a WSGI app."""
    app = WsgiMeter(usage.wsgi, rules)
    started: list[tuple[str, list[tuple[str, str]]]] = []
    environ: dict[str, object] = {f"HTTP_{name.upper()}": value for name, value in fields.items()}
    environ |= {"REQUEST_METHOD": method, "PATH_INFO": "/usage", "REMOTE_ADDR": "192.0.2.7"}
    environ |= {"wsgi.input": io.BytesIO(), "SERVER_PROTOCOL": "HTTP/1.1"}
    chunks = app(environ, lambda status, headers, exc=None: started.append((status, headers)))  # type: ignore[arg-type, return-value, func-returns-value]
    body = b"".join(chunks)
    getattr(chunks, "close", bool)()
    app.meter.close()
    ((status, headers),) = started
    return int(status[:3]), {name.lower(): value for name, value in headers}, body


@pytest.fixture(params=[over_asgi, over_wsgi], ids=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[int, dict[str, str], bytes]]]:
    """Give a way to ask the endpoint."""
    return request.param  # type: ignore[no-any-return]


def test_the_answer_is_json_that_nobody_keeps(ask: Callable[..., object], tmp_path: Path) -> None:
    """200 on an exempt route, with the length and without limit fields."""
    status, fields, body = ask(make(tmp_path, cap(9)), x_api_key="k")  # type: ignore[misc]
    assert status == 200
    assert (fields["content-type"], fields["cache-control"]) == ("application/json", "no-store")
    assert int(fields["content-length"]) == len(body)
    assert "ratelimit" not in fields
    assert [each["used"] for each in json.loads(body)["limits"]] == [0]


def test_head_has_the_fields_only(ask: Callable[..., object], tmp_path: Path) -> None:
    """The same length, and no content."""
    status, fields, body = ask(make(tmp_path, cap(9)), "HEAD", x_api_key="k")  # type: ignore[misc]
    assert (status, body) == (200, b"")
    assert int(fields["content-length"]) > 100


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(method: str, ask: Callable[..., object], tmp_path: Path) -> None:
    """405 says which are."""
    status, fields, body = ask(make(tmp_path, cap(9)), method, x_api_key="k")  # type: ignore[misc]
    assert (status, fields["allow"]) == (405, "GET, HEAD")
    assert (json.loads(body)["status"], fields["content-type"]) == (405, "application/problem+json")


def test_who_is_nobody_is_challenged(ask: Callable[..., object], tmp_path: Path) -> None:
    """401 as anywhere else, though the route asks for no key."""
    status, fields, body = ask(make(tmp_path, cap(9), anonymous=None))  # type: ignore[misc]
    assert (status, json.loads(body)["status"]) == (401, 401)
    assert "ApiKey" in fields["www-authenticate"]
    assert fields["cache-control"] == "no-store"


def test_a_store_that_is_away_is_said(ask: Callable[..., object], tmp_path: Path) -> None:
    """503 with a Retry-After."""
    rules = make(tmp_path, cap(9), store="redis://127.0.0.1:1/0")
    status, fields, body = ask(rules, x_api_key="k")  # type: ignore[misc]
    assert (status, fields["retry-after"]) == (503, "1")
    assert "cannot be looked up" in json.loads(body)["detail"]


def test_on_a_route_that_is_not_exempt_it_is_a_request_like_any_other(
    ask: Callable[..., object], tmp_path: Path
) -> None:
    """The answer counts the request itself, and agrees with its own limit fields."""
    rules = policy(cap(9), rate(3, burst=5), journal=tmp_path / "journal")
    status, fields, body = ask(rules, x_api_key="k")  # type: ignore[misc]
    assert status == 200
    left = {item[0]: item[1]["r"] for item in http_sf.parse(fields["ratelimit"].encode(), tltype="list")}  # type: ignore[union-attr, index, call-overload]
    assert left == {each["name"]: each["remaining"] for each in json.loads(body)["limits"]}
    assert left == {"cap": 8, "rate": 4}


def test_without_a_meter_it_says_so() -> None:
    """An app that is not metered knows no usage."""
    with pytest.raises(MeterError, match="is MeterMiddleware around the app"):
        usage.wsgi({"REQUEST_METHOD": "GET"}, lambda *_: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(MeterError, match="is MeterMiddleware around the app"):
        usage.wsgi({"REQUEST_METHOD": "GET", METER: "x"}, lambda *_: None)  # type: ignore[arg-type, return-value]


def test_sockets_are_not_answered(tmp_path: Path) -> None:
    """Usage is asked for by HTTP."""
    meter = Meter(make(tmp_path))
    with pytest.raises(MeterError, match="by HTTP"):
        asyncio.run(usage.asgi({"type": "websocket", METER: meter}, None, None))  # type: ignore[arg-type]
    meter.close()
