"""What a client reads: limit fields, by an independent parser of RFC 9651, and problem documents."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.admission import Admission, Answer, Standing
from meter_mw.model import LARGEST_COST, RequestId
from meter_mw.periods import Period
from meter_mw.policy.identity import BearerKey, HeaderKey, QueryKey
from meter_mw.policy.policy import HeaderRules, Legacy
from meter_mw.policy.terms import Exemption, KeyEntry, Limit, Line
from meter_mw.quota import HORIZON_US, Cap
from meter_mw.respond import Responder, exposed, problem
from meter_mw.stores.memory import MemoryStore
from support.policies import (
    DAY_US,
    EGRESS,
    INGRESS,
    SECOND_US,
    TOKENS,
    cap,
    held,
    policy,
    rate,
    request,
    route,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.policy.identity import KeyPlace
    from meter_mw.respond import Fields, Refusal
    from meter_mw.testing.stores import Clock

NOW_US = 1_767_225_600 * SECOND_US
RID = RequestId("01900000-0000-7000-8000-000000000001")
LARGEST_INTEGER = 999_999_999_999_999

RULES = policy()
EPOCH, DELTA = HeaderRules(legacy=Legacy.EPOCH), HeaderRules(legacy=Legacy.DELTA)


def standing(
    limit: Limit, remaining: int = 0, reset_us: int = 0, wait_us: int | None = 0, need: int = 1
) -> Standing:
    """Give how a caller stands with a limit."""
    return Standing(Line(limit, need, need), remaining, reset_us, wait_us)


def admission(*standings: Standing, now_us: int = NOW_US) -> Admission:
    """Give an admission with these standings, denied if one of them has to be waited for."""
    denied_by = tuple(each for each in standings if each.wait_us != 0)
    return Admission(
        Answer.DENIED if denied_by else Answer.ALLOWED,
        RID,
        now_us,
        RULES.route("GET", "/"),
        RULES.caller(KeyEntry("acme"), None),
        tuple(each.line for each in standings),
        standings=standings,
        denied_by=denied_by,
    )


def refused(answer: Answer, reason: str = "") -> Admission:
    """Give a refusal that no limit has to do with."""
    return Admission(answer, RID, NOW_US, RULES.route("GET", "/"), reason=reason)


def fields_of(admission: Admission, headers: HeaderRules | None = None) -> dict[str, str]:
    """Give the limit fields of an answer."""
    fields = Responder(policy(headers=headers)).fields(admission)
    assert len(dict(fields)) == len(fields)
    return dict(fields)


def refusal_of(admission: Admission) -> tuple[Refusal, dict[str, str]]:
    """Give a refusal with its fields."""
    refusal, fields = Responder(RULES).refusal(admission)
    assert len(dict(fields)) == len(fields)
    return refusal, dict(fields)


def items(value: str) -> list[tuple[str, dict[str, int | str]]]:
    """Read a List of Strings whose parameters are Integers, or a String for the unit; nothing else passes."""
    read = http_sf.parse(value.encode("ascii"), tltype="list")
    assert isinstance(read, list)
    found: list[tuple[str, dict[str, int | str]]] = []
    for item in read:
        assert isinstance(item, tuple)
        name, parameters = item
        assert type(name) is str
        assert all(type(each) is (str if key == "qu" else int) for key, each in parameters.items())
        found.append((name, parameters))
    return found


# Limit fields


def test_the_fields_of_an_answer() -> None:
    """Each limit has an item in both fields: what it allows in what time, and what is left of it."""
    answer = admission(
        standing(rate(10, burst=20), 12, 800_000),
        standing(cap(10_000), 9_999, 30 * DAY_US + 1),
        standing(cap(2**30, Period.DAY, meter=EGRESS, name="egress"), 2**30, 7_500_000),
        standing(rate(5, meter=INGRESS, name="ingress"), 5, 0),
        standing(cap(7, Period.HOUR, meter=TOKENS, name="tokens.hour"), 0, 1),
    )
    fields = fields_of(answer)
    assert fields.keys() == {"RateLimit-Policy", "RateLimit"}
    assert items(fields["RateLimit-Policy"]) == [
        ("rate", {"q": 20, "w": 2}),
        ("cap", {"q": 10_000, "w": 2_592_000}),
        ("egress", {"q": 2**30, "qu": "content-bytes", "w": 86_400}),
        ("ingress", {"q": 5, "qu": "content-bytes", "w": 1}),
        ("tokens.hour", {"q": 7, "w": 3_600}),
    ]
    assert items(fields["RateLimit"]) == [
        ("rate", {"r": 12, "t": 1}),
        ("cap", {"r": 9_999, "t": 2_592_001}),
        ("egress", {"r": 2**30, "t": 8}),
        ("ingress", {"r": 5, "t": 0}),
        ("tokens.hour", {"r": 0, "t": 1}),
    ]


@st.composite
def any_standing(draw: st.DrawFn) -> Standing:
    """Draw any limit and any way to stand with it."""
    name = draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}|[ !#-\[\]-~]{1,9}", fullmatch=True))
    meter = draw(st.sampled_from(RULES.meters))
    amount = draw(st.integers(1, 100) | st.integers(1, LARGEST_COST))
    if draw(st.booleans()):
        limit = cap(amount, draw(st.sampled_from(Period)), name=name, meter=meter)
    else:
        limit = rate(amount, period_us=draw(st.integers(1, HORIZON_US - 1)), name=name, meter=meter)
    waits = st.none() | st.just(0) | st.integers(1, 2 * HORIZON_US)
    return standing(limit, draw(st.integers(0, amount)), draw(st.integers(0, 2 * HORIZON_US)), draw(waits))


@given(st.lists(any_standing(), min_size=1, max_size=6, unique_by=lambda each: each.line.limit.name))
def test_whatever_the_limits_the_fields_are_read_back(standings: list[Standing]) -> None:
    """Names come back as they are, numbers as Integers within bounds, and no more is left than allowed."""
    answer = admission(*standings)
    fields = fields_of(answer)
    allowed, left = items(fields["RateLimit-Policy"]), items(fields["RateLimit"])
    names = [each.line.limit.name for each in standings]
    assert [name for name, _ in allowed] == [name for name, _ in left] == names
    for (_, most), (_, now) in zip(allowed, left, strict=True):
        assert most.keys() - {"qu"} == {"q", "w"}
        assert now.keys() == {"r", "t"}
        q, w, r, t = (int(each) for each in (most["q"], most["w"], now["r"], now["t"]))
        assert 0 <= r <= q <= LARGEST_INTEGER
        assert 1 <= w <= LARGEST_INTEGER
        assert 0 <= t <= LARGEST_INTEGER
    if answer.answer is Answer.DENIED:
        assert_wait(answer)


def assert_wait(answer: Admission) -> None:
    """Hold Retry-After to the standings: an integer that helps, or none where waiting does not."""
    refusal, fields = refusal_of(answer)
    if any(each.wait_us is None for each in answer.denied_by):
        assert refusal.retry_after is None
        assert "Retry-After" not in fields
        return
    text = fields["Retry-After"]
    assert re.fullmatch("[1-9][0-9]*", text)
    assert refusal.retry_after == int(text)
    after = dict(items(fields["RateLimit"]))
    assert all(int(text) >= int(after[name]["t"]) for name in set(refusal.violated) if after.keys())
    longest_us = max(each.wait_us or 0 for each in answer.denied_by)
    assert int(text) * SECOND_US >= longest_us > (int(text) - 1) * SECOND_US or int(text) == 1


def test_an_integer_has_fifteen_digits_at_most() -> None:
    """A petabyte in bytes has 16; what a parser would refuse is cut to the largest it takes."""
    answer = admission(standing(cap(LARGEST_COST, meter=EGRESS), LARGEST_COST))
    fields = fields_of(answer)
    assert items(fields["RateLimit-Policy"])[0][1]["q"] == LARGEST_INTEGER
    assert items(fields["RateLimit"])[0][1]["r"] == LARGEST_INTEGER


def test_the_policy_field_is_stable() -> None:
    """It says the same on every answer of a route and plan, whatever is left, and in every month."""
    responder = Responder(RULES)
    limits = (rate(10, burst=20), cap(10_000))
    values = set()
    for month in range(12):
        answer = admission(
            *(standing(each, month, month * DAY_US) for each in limits), now_us=NOW_US + 30 * DAY_US * month
        )
        values.add(dict(responder.fields(answer))["RateLimit-Policy"])
    assert values == {'"rate";q=20;w=2, "cap";q=10000;w=2592000'}


def test_routes_and_plans_have_policies_of_their_own() -> None:
    """The field is kept by route and plan, and never mixed up between them."""
    rules = policy(rate(1), routes=[route("/x", rate(2, name="own", route="/x")), route("/y")])
    responder = Responder(rules)
    names = {}
    for path in ("/x", "/y", "/z", "/x"):
        answer = held(rules, request(path, key="k"), MemoryStore(lambda: NOW_US))
        names[path] = [name for name, _ in items(dict(responder.fields(answer))["RateLimit-Policy"])]
    assert names == {"/x": ["rate", "own"], "/y": ["rate"], "/z": ["rate"]}


@pytest.mark.parametrize(
    ("limit", "w"),
    [
        (rate(10, burst=20), 2),
        (rate(10, burst=1), 1),
        (rate(10, burst=15), 2),
        (rate(30, period_us=60 * SECOND_US, burst=10), 20),
        (rate(1, period_us=DAY_US), 86_400),
        *((cap(5, period), period.value) for period in Period),
    ],
)
def test_the_window_is_when_the_quota_is_back(limit: Limit, w: int) -> None:
    """For a rate the time in which its burst comes back, a second at least; for a cap its nominal length."""
    fields = fields_of(admission(standing(limit)))
    assert items(fields["RateLimit-Policy"])[0][1]["w"] == w


def test_a_denied_limit_tells_its_own_wait() -> None:
    """`t` is when the request would fit a limit that denied it, and when all is back for the others."""
    answer = admission(
        standing(rate(1), 0, 9 * SECOND_US, 1_000_001),
        standing(cap(5), 4, 60 * SECOND_US),
        standing(rate(1, name="never"), 1, 3 * SECOND_US, None),
    )
    assert items(fields_of(answer)["RateLimit"]) == [
        ("rate", {"r": 0, "t": 2}),
        ("cap", {"r": 4, "t": 60}),
        ("never", {"r": 1, "t": 3}),
    ]


@pytest.mark.parametrize("headers", [None, HeaderRules(ietf=False), EPOCH])
def test_what_is_not_known_is_not_said(headers: HeaderRules | None) -> None:
    """Without standings, and on an exempt route, there are no limit fields rather than wrong ones."""
    rules = policy(routes=[route("/health", exemption=Exemption.FREE)], headers=headers)
    for path in ("/", "/health"):
        assert Responder(rules).fields(held(rules, request(path), MemoryStore())) == ()


def test_fields_can_be_turned_off() -> None:
    """Both kinds are the policy's to choose."""
    answer = admission(standing(rate(10), 9))
    assert fields_of(answer, HeaderRules(ietf=False)) == {}
    assert fields_of(answer, HeaderRules(ietf=False, legacy=Legacy.DELTA)).keys() == {
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
    }
    assert len(fields_of(answer, DELTA)) == 5


# The legacy trio


@pytest.mark.parametrize(("headers", "reset"), [(DELTA, "8"), (EPOCH, str(NOW_US // SECOND_US + 8))])
def test_the_legacy_reset(headers: HeaderRules, reset: str) -> None:
    """It is a number of seconds, or the second since 1970, in which the limit is whole again; never early."""
    fields = fields_of(admission(standing(rate(10, burst=20), 12, 7_000_001), now_us=NOW_US), headers)
    assert fields["X-RateLimit-Limit"] == "20"
    assert fields["X-RateLimit-Remaining"] == "12"
    assert fields["X-RateLimit-Reset"] == reset


def test_the_legacy_epoch_is_rounded_once() -> None:
    """Now and the rest of the window are added before they are rounded up."""
    answer = admission(standing(cap(5), 1, 1_500_000), now_us=NOW_US + 500_000)
    assert fields_of(answer, EPOCH)["X-RateLimit-Reset"] == str(NOW_US // SECOND_US + 2)


@pytest.mark.parametrize(
    ("standings", "expected"),
    [
        ([standing(rate(10), 9), standing(cap(100), 50)], ("100", "50", "0")),
        ([standing(rate(10), 1, 5 * SECOND_US), standing(cap(100), 10, DAY_US)], ("100", "10", "86400")),
        ([standing(rate(10), 0, 9 * SECOND_US, SECOND_US), standing(cap(100), 0, DAY_US)], ("10", "0", "1")),
        ([standing(cap(0), 0, DAY_US), standing(rate(1), 1)], ("0", "0", "86400")),
    ],
)
def test_the_legacy_trio_is_of_the_tightest_limit(
    standings: list[Standing], expected: tuple[str, str, str]
) -> None:
    """One that denied, or else the one with the least left of what it allows; of equals the later one."""
    assert tuple(fields_of(admission(*standings), DELTA).values())[2:] == expected


# Refusals


def document_of(refusal: Refusal) -> dict[str, object]:
    """Read the problem document, and hold it to RFC 9457."""
    media_type, body = problem(refusal)
    assert media_type == "application/problem+json"
    document = json.loads(body.decode("utf-8"))
    assert isinstance(document, dict)
    assert document.keys() - {"violated-policies"} == {"type", "title", "status", "detail", "instance"}
    assert all(isinstance(document[name], str) for name in ("type", "title", "detail", "instance"))
    assert document["status"] == refusal.status
    assert document["instance"] == f"urn:uuid:{RID}"
    assert re.fullmatch(
        r"about:blank|https://iana\.org/assignments/http-problem-types#[a-z-]+", document["type"]
    )
    return document


def test_a_denial_is_a_problem() -> None:
    """429, the limits that had no room by name, and when to come back."""
    answer = admission(
        standing(rate(1), 0, 9 * SECOND_US, 1_000_001),
        standing(cap(5), 4),
        standing(cap(9, name="x"), 0, 5, 5),
    )
    refusal, fields = refusal_of(answer)
    assert document_of(refusal) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": "The limit rate, x is used up; retry after 2 s.",
        "instance": f"urn:uuid:{RID}",
        "violated-policies": ["rate", "x"],
    }
    assert list(fields) == ["Cache-Control", "RateLimit-Policy", "RateLimit", "Retry-After"]
    assert (fields["Cache-Control"], fields["Retry-After"]) == ("no-store", "2")


@pytest.mark.parametrize(
    ("wait_us", "expected"),
    [(1, "1"), (999_999, "1"), (1_000_000, "1"), (1_000_001, "2"), (37_000_000, "37")],
)
def test_retry_after_is_rounded_up(wait_us: int, expected: str) -> None:
    """It is a whole number of seconds, 1 at least, and never too early."""
    answer = admission(standing(rate(1), 0, 99 * SECOND_US, wait_us))
    assert refusal_of(answer)[1]["Retry-After"] == expected
    assert_wait(answer)


@pytest.mark.parametrize("limit", [rate(1, burst=4), cap(4)])
def test_never_has_no_retry_after(limit: Limit) -> None:
    """A cost that can never fit says so, and is not invited back, even where another limit has a wait."""
    answer = admission(standing(limit, 4, 0, None, need=5), standing(rate(1, name="x"), 0, 5, 5))
    refusal, fields = refusal_of(answer)
    assert "Retry-After" not in fields
    document = document_of(refusal)
    assert (document["status"], document["violated-policies"]) == (429, [limit.name, "x"])
    assert document["detail"] == (
        f"This request needs 5 units of requests, and {limit.name} never allows more than 4; do not retry it."
    )


def test_a_store_that_is_away_is_a_problem() -> None:
    """503, in a second again, and nothing about limits that nobody knows."""
    refusal, fields = refusal_of(refused(Answer.UNAVAILABLE, "the usage of this key cannot be checked"))
    assert document_of(refusal) == {
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "Request cannot be satisfied due to temporary server capacity constraints",
        "status": 503,
        "detail": "The usage of this key cannot be checked. Retry after 1 s.",
        "instance": f"urn:uuid:{RID}",
    }
    assert fields == {"Cache-Control": "no-store", "Retry-After": "1"}


@pytest.mark.parametrize(
    ("places", "challenge"),
    [
        ([BearerKey()], 'Bearer realm="orders-api"'),
        ([HeaderKey("X-API-Key")], 'ApiKey realm="orders-api"'),
        ([HeaderKey("X-API-Key"), BearerKey()], 'ApiKey realm="orders-api", Bearer realm="orders-api"'),
        (
            [BearerKey(), QueryKey("key"), HeaderKey("X-A")],
            'Bearer realm="orders-api", ApiKey realm="orders-api"',
        ),
    ],
)
def test_a_missing_key_is_challenged(places: Sequence[KeyPlace], challenge: str) -> None:
    """401 says in which ways a key can be sent, each once (RFC 9110, section 15.5.2)."""
    answer = refused(Answer.UNIDENTIFIED, "this API needs a key")
    refusal, fields = Responder(policy(places=places)).refusal(answer)
    document = document_of(refusal)
    assert (document["type"], document["title"], document["status"]) == ("about:blank", "Unauthorized", 401)
    assert document["detail"] == "This API needs a key."
    assert fields == (("Cache-Control", "no-store"), ("WWW-Authenticate", challenge))


@pytest.mark.parametrize("answer", [Answer.AMBIGUOUS, Answer.ODD_PATH])
def test_what_cannot_be_read_is_a_bad_request(answer: Answer) -> None:
    """400 says why, and that waiting does not help."""
    refusal, fields = refusal_of(refused(answer, "the path holds U+000A"))
    document = document_of(refusal)
    assert (document["type"], document["title"], document["status"]) == ("about:blank", "Bad Request", 400)
    assert document["detail"] == "The path holds U+000A."
    assert fields == {"Cache-Control": "no-store"}


def test_every_answer_that_does_not_serve_is_a_refusal() -> None:
    """None is left out: each has a status of its own kind, and is not to be kept by a cache."""
    statuses = {}
    for answer in Answer:
        said = refused(answer) if answer is not Answer.DENIED else admission(standing(rate(1), wait_us=1))
        if not said.serves:
            refusal, fields = refusal_of(said)
            statuses[answer] = refusal.status
            assert fields["Cache-Control"] == "no-store"
    assert statuses == {
        Answer.DENIED: 429,
        Answer.UNAVAILABLE: 503,
        Answer.UNIDENTIFIED: 401,
        Answer.AMBIGUOUS: 400,
        Answer.ODD_PATH: 400,
    }


def test_an_own_body_can_tell_all() -> None:
    """What an app's own body is given says why, when to come back, and how the caller stands."""

    def body(refusal: Refusal) -> tuple[str, bytes]:
        least = min(each.remaining for each in refusal.admission.standings)
        return "text/plain", f"{refusal.status} {refusal.retry_after} {refusal.violated} {least}".encode()

    refusal, _ = refusal_of(admission(standing(rate(1), 0, 5, 5), standing(cap(9), 3)))
    assert body(refusal) == ("text/plain", b"429 1 ('rate',) 0")


# Access-Control-Expose-Headers

OURS: Fields = (("RateLimit-Policy", ""), ("RateLimit", ""), ("Retry-After", ""), ("Cache-Control", ""))


@pytest.mark.parametrize(
    ("present", "fields", "expected"),
    [
        (None, OURS, "RateLimit-Policy, RateLimit, Retry-After"),
        ("", OURS, "RateLimit-Policy, RateLimit, Retry-After"),
        ("ETag", OURS, "ETag, RateLimit-Policy, RateLimit, Retry-After"),
        ("etag ,ratelimit", OURS, "etag, ratelimit, RateLimit-Policy, Retry-After"),
        ("X-A,, X-B,", OURS, "X-A, X-B, RateLimit-Policy, RateLimit, Retry-After"),
        ("ratelimit, RATELIMIT-POLICY, retry-after", OURS, None),
        ("*", OURS, None),
        ("ETag, *", OURS, None),
        (None, (), None),
        ("ETag", (), None),
        (None, (("Cache-Control", ""), ("WWW-Authenticate", ""), ("Content-Type", "")), None),
        (None, (("X-RateLimit-Limit", ""),), "X-RateLimit-Limit"),
    ],
)
def test_fields_are_exposed_beside_those_of_the_app(
    present: str | None, fields: Fields, expected: str | None
) -> None:
    """Ours are added to what the app exposes, each once; `*` already exposes all."""
    assert exposed(present, fields) == expected


# Kept promises


LIMITS = [
    rate(3, burst=4),
    rate(7, period_us=60 * SECOND_US, burst=3),
    rate(1_000, burst=2),
    *(cap(4, period) for period in Period),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: repr(limit.quota))
@pytest.mark.parametrize("offset_us", [0, 1, 999_999, 1_234_567])
def test_a_retry_after_retry_after_is_admitted(limit: Limit, offset_us: int, clock: Clock) -> None:
    """Sleep exactly the seconds that the field says, retry, and be admitted, for every kind of limit."""
    rules, store = policy(limit), MemoryStore(clock)
    responder, asked = Responder(rules), request(key="k")
    clock.move(offset_us)
    for _ in range(3):
        while (answer := held(rules, asked, store)).serves:
            left = items(dict(responder.fields(answer))["RateLimit"])[0][1]["r"]
            assert left == answer.standings[0].remaining
        refusal, fields = responder.refusal(answer)
        assert items(dict(fields)["RateLimit"])[0][1]["r"] == 0
        assert refusal.retry_after is not None
        clock.move(int(dict(fields)["Retry-After"]) * SECOND_US)
        assert held(rules, asked, store).serves


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: repr(limit.quota))
def test_what_remains_can_be_used(limit: Limit, clock: Clock) -> None:
    """As many requests as `r` said are admitted at once, and not one more; `q` is never less."""
    rules, store = policy(limit), MemoryStore(clock)
    asked = request(key="k")
    first = held(rules, asked, store)
    fields = dict(Responder(rules).fields(first))
    left = int(items(fields["RateLimit"])[0][1]["r"])
    quota = limit.quota
    assert left == (quota.units if isinstance(quota, Cap) else quota.burst) - 1
    assert left < int(items(fields["RateLimit-Policy"])[0][1]["q"])
    assert [held(rules, asked, store).serves for _ in range(left + 1)] == [True] * left + [False]


def test_a_burst_that_is_back_within_a_second_is_said_as_what_comes_in_one(clock: Clock) -> None:
    """`w` knows no less than a second, so 10 a second with burst 5 is not 5 a second."""
    rules = policy(rate(10, burst=5))
    fields = dict(Responder(rules).fields(held(rules, request(key="k"), MemoryStore(clock))))
    ((_, parameters),) = items(fields["RateLimit-Policy"])
    assert (parameters["q"], parameters["w"]) == (10, 1)
