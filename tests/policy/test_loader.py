"""Policies from YAML and mappings: what they become, and every complaint to the letter."""

from __future__ import annotations

import datetime as dt
import json
import string
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loading import BAD, ENVIRON, EXAMPLE, GOOD, ROOT, SECRET, acme, complaints, good, names, of

from meter_mw.model import Count, Meter
from meter_mw.periods import Period
from meter_mw.policy.identity import BearerKey, Credential, HeaderKey, QueryKey, pseudonym
from meter_mw.policy.loader import load
from meter_mw.policy.policy import Legacy, Mode, Policy, Unknown
from meter_mw.policy.problems import PolicyError
from meter_mw.policy.terms import ChargeRules, Exemption, Failure
from meter_mw.quota import Cap, Rate
from support.policies import sink

# -- the folders


@pytest.mark.parametrize("name", names(BAD))
def test_bad_policy_has_exactly_the_complaint_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    expected = (BAD / f"{name}.txt").read_text().splitlines()
    assert complaints(f"{name}.yaml") == expected


@pytest.mark.parametrize("name", names(BAD))
def test_no_complaint_shows_a_secret_or_breaks_its_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(PolicyError) as caught:
        load(f"{name}.yaml", ENVIRON)
    shown = [repr(caught.value), *map(repr, caught.value.problems), *map(str, caught.value.problems)]
    assert not [line for line in shown if "canary" in line.lower() and "${CANARY}" not in line]
    assert all(str(problem).isprintable() for problem in caught.value.problems)


def test_every_bad_policy_has_a_complaint_and_every_complaint_a_policy() -> None:
    assert sorted(path.stem for path in BAD.glob("*.txt")) == names(BAD)
    assert len(names(BAD)) >= 100


@pytest.mark.parametrize("name", names(GOOD))
def test_good_policy_loads_and_its_repr_shows_no_secret(name: str) -> None:
    policy = good(name)
    assert isinstance(policy, Policy)
    assert "canary" not in repr(policy)


def test_example_loads_and_says_what_the_contract_says() -> None:
    policy = load(EXAMPLE, ENVIRON)
    assert [route.name for route in policy.routes] == [
        "/health",
        "items.read",
        "POST /v1/search",
        "POST,PUT /v1/files/{name:path}",
        "other",
    ]
    assert [limit.name for limit in policy.plans["default"].limits] == [
        "requests-per-second",
        "requests-month",
        "bandwidth",
        "egress",
        "concurrent",
    ]
    assert policy.identity.anonymous is not None
    assert policy.events.journal == ROOT / "var" / "meter"


def test_example_loads_with_its_keys_uncommented(tmp_path: Path) -> None:
    before, _, rest = EXAMPLE.read_text().partition("keys: []\n")
    commented, blank, after = rest.partition("\n\n")
    keys = "\n".join(line.removeprefix("# ") for line in commented.splitlines())
    text = (before + keys + blank + after).replace("    # - ", "    - ")
    file = tmp_path / "meter.yaml"
    file.write_text(text.replace("${file:/run/secrets/hook}", "${HOOK_SECRET}"))
    policy = load(file, ENVIRON)
    entry = policy.keys[acme(policy)]
    assert (entry.subject, entry.plan, entry.anchor) == ("acme", "pro", dt.date(2026, 1, 31))
    assert [each.limit for each in entry.overrides] == ["requests-month"]
    assert QueryKey("api_key") in policy.identity.places
    assert len(policy.events.sinks) == 3


# -- what policies become


def test_defaults_are_those_of_the_contract() -> None:
    policy = good("smallest")
    assert (policy.service, policy.mode, policy.store) == ("shop", Mode.ENFORCE, "memory://")
    assert (policy.timezone, policy.deadline_us) == ("UTC", 100_000)
    assert policy.identity.places == (HeaderKey("x-api-key"), BearerKey())
    assert (policy.identity.unknown, policy.identity.anonymous) == (Unknown.ACCEPT, None)
    assert policy.identity.keyring.oldest.value == SECRET
    assert policy.meters == (
        Meter("requests", Count.REQUESTS),
        Meter("ingress", Count.REQUEST_BYTES),
        Meter("egress", Count.RESPONSE_BYTES),
    )
    assert policy.plans["default"].limits == ()
    assert (policy.headers.ietf, policy.headers.legacy) == (True, Legacy.OFF)
    assert policy.events.journal == GOOD / "var" / "meter"
    assert policy.events.sinks == (sink("file", GOOD / "var" / "meter" / "usage.jsonl"),)
    assert (policy.charge, policy.week_start, policy.checkpoint_us) == (ChargeRules(), 0, 60_000_000)
    assert policy.registry is False


def test_a_loaded_policy_is_given_back() -> None:
    policy = good("smallest")
    assert load(policy) is policy


def test_store_is_taken_from_the_environment_where_the_file_names_none() -> None:
    policy = load(GOOD / "smallest.yaml", {**ENVIRON, "METER_STORE": "redis://localhost"})
    assert policy.store == "redis://localhost"


def test_rates_are_read_exactly() -> None:
    limits = {limit.name: limit.quota for limit in good("rates").plans["default"].limits}
    assert limits == {
        "requests-per-second": Rate(10, 1_000_000, 10),
        "requests-per-2-minutes": Rate(100, 120_000_000, 100),
        "requests-per-3-hours": Rate(7, 3 * 3_600_000_000, 7),
        "requests-per-week": Rate(1000, 604_800_000_000, 1),
        "egress-per-second": Rate(5_000_000, 1_000_000, 20_000_000),
        "ingress-per-second": Rate(1536, 1_000_000, 4096),
    }


def test_caps_are_read_exactly() -> None:
    plan = good("caps").plans["default"]
    assert plan.timezone == "Asia/Tokyo"
    assert {limit.name: limit.quota for limit in plan.limits} == {
        "requests-second": Cap(1, Period.SECOND),
        "requests-minute": Cap(2, Period.MINUTE),
        "requests-hour": Cap(3, Period.HOUR),
        "requests-day": Cap(0, Period.DAY),
        "requests-week": Cap(5, Period.WEEK),
        "requests-month": Cap(6, Period.MONTH),
        "requests-year": Cap(2**52, Period.YEAR),
        "traffic": Cap(1_610_612_736, Period.MONTH),
    }


def test_changing_an_amount_changes_no_name_and_no_id() -> None:
    def limits(rate: str, cap: str) -> list[tuple[str, str]]:
        policy = of(plans={"default": {"limits": [{"rate": rate}, {"cap": cap}]}})
        return [(limit.name, limit.id) for limit in policy.plans["default"].limits]

    assert limits("10/second", "5/day") == limits("1000/second", "7/day")


def test_failure_of_the_store_is_open_for_rates_and_closed_for_caps_unless_said() -> None:
    limits = [{"rate": "1/second"}, {"cap": "1/day"}, {"cap": "1/week", "on_store_failure": "open"}]
    plan = of(plans={"default": {"limits": limits}}).plans["default"]
    assert [limit.on_store_failure for limit in plan.limits] == [Failure.OPEN, Failure.CLOSED, Failure.OPEN]
    turned = good("failure")
    assert [limit.on_store_failure for limit in turned.plans["default"].limits] == [
        Failure.CLOSED,
        Failure.OPEN,
        Failure.CLOSED,
    ]
    assert turned.deadline_us == 1_500_000


def test_route_limits_carry_the_route_and_a_name_for_header_fields() -> None:
    files, search, long = good("route_limits").routes
    assert files.name == "POST,PUT /v1/files/{name:path}"
    assert [limit.name for limit in files.limits] == [
        "post-put-v1-files-name-path-requests-per-second",
        "post-put-v1-files-name-path-requests-day",
    ]
    assert {limit.route for limit in files.limits} == {files.name}
    assert [limit.name for limit in search.limits] == ["search-requests-per-second"]
    assert len(long.limits[0].name) == 64


def test_routes_are_matched_in_their_order_at_their_cost() -> None:
    policy = good("routes")
    health, one, search, other = policy.routes
    assert health.exemption is Exemption.FREE
    assert policy.route("HEAD", "/v1/7") is one
    assert policy.route("POST", "/v1/search") is search
    assert search.cost(policy.meters[0]) == 0
    assert policy.route("GET", "/elsewhere") is other


def test_meter_of_requests_is_always_there() -> None:
    assert [meter.name for meter in good("meters_without_requests").meters] == ["requests", "tokens"]
    assert of(meters={}).meters == (Meter("requests", Count.REQUESTS),)


def test_keys_are_held_as_pseudonyms() -> None:
    policy = good("keys_inline")
    caller = policy.listed(acme(policy))
    assert caller is not None
    assert (caller.subject, caller.plan.name, caller.account) == ("acme", "pro", "acme-group")
    assert (caller.anchor, caller.timezone) == (dt.date(2026, 1, 31), "Europe/Paris")
    assert "canary-acme" not in repr(policy.keys)


def test_keys_of_a_file_and_references_in_it_begin_at_its_folder() -> None:
    policy = good("keys_in_file")
    other = policy.listed(pseudonym(SECRET, Credential("canary-of-other")))
    assert other is not None
    assert other.subject == "other"


def test_resolver_is_imported() -> None:
    import os.path  # noqa: PLC0415

    assert good("keys_of_resolver").resolver is os.path.basename


def test_resolver_of_a_mapping_may_be_the_callable_itself() -> None:
    def resolve(key: str) -> object:
        return None

    assert of(keys={"resolver": resolve}).resolver is resolve


@pytest.mark.parametrize("statement", ["raise RuntimeError('canary')", "raise SystemExit('canary')", "(", ""])
def test_resolver_whose_module_fails_is_a_problem(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_module.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        (found,) = complaints({"version": 1, "service": "shop", "keys": {"resolver": "their_module:resolve"}})
    finally:
        sys.modules.pop("their_module", None)
    assert "importing it raised" in found
    assert "canary" not in found


@pytest.mark.parametrize(
    ("name", "shown"), [("no_such.part", ', as there is no module "no_such.part"'), ("not a name", ";")]
)
def test_module_that_a_resolver_lacks_is_named(
    name: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a module may be shown, and nothing else that an error carries."""
    (tmp_path / "their_module.py").write_text(f"raise ModuleNotFoundError('canary', name={name!r})")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = complaints({"version": 1, "service": "shop", "keys": {"resolver": "their_module:resolve"}})
    assert f"importing it raised ModuleNotFoundError{shown}" in found
    assert "canary" not in found


def test_identity_is_read_in_order() -> None:
    rules = good("identity_places").identity
    assert rules.places == (QueryKey("api_key"), BearerKey(), HeaderKey("X-Key"))
    assert rules.unknown is Unknown.REJECT
    assert len(rules.trusted_proxies.networks) == 3
    assert rules.trusted_proxies.unix


def test_secret_comes_from_a_file_without_its_line_end() -> None:
    assert good("secret_from_file").identity.keyring.oldest.value == b"canary-secret-in-a-file"


def test_missing_secret_is_one_problem_that_says_how_to_make_one() -> None:
    (found,) = complaints({"version": 1, "service": "shop"}, {})
    assert found.startswith("identity.secret: no secret: set the environment variable METER_KEY_SECRET")
    assert "token_urlsafe" in found


def test_sinks_are_read_in_order() -> None:
    sinks = good("sinks").events.sinks
    assert sinks == (
        sink("file", GOOD / "usage.jsonl"),
        sink("stdout"),
        sink("http", "https://billing.example/events", secret="canary-hook"),
        sink("http", "http://localhost:8080/events?token=x"),
        sink("http", "http://[::1]/"),
        sink("http", "http://collector:8080/events", plain_http=True),
    )


@pytest.mark.parametrize(
    ("said", "meant"),
    [(False, Legacy.OFF), (True, Legacy.EPOCH), ("epoch", Legacy.EPOCH), ("delta", Legacy.DELTA)],
)
def test_legacy_fields(said: object, meant: Legacy) -> None:
    assert of(headers={"legacy": said}).headers.legacy is meant


def test_numbers_and_booleans_may_come_from_variables() -> None:
    policy = good("number_from_a_variable")
    assert policy.routes[0].costs == (("requests", 5),)
    assert policy.plans["default"].limits[0].quota == Rate(5, 1_000_000, 5)
    assert policy.headers.legacy is Legacy.EPOCH


def test_text_that_yaml_1_1_reads_otherwise_stays_text() -> None:
    policy = good("strings_that_look_otherwise")
    assert set(policy.plans) == {"default", "no", "on", "2026"}
    assert {entry.subject for entry in policy.keys.values()} == {"12:30", "42"}


# -- mappings


def test_mapping_gives_the_same_policy_as_its_yaml() -> None:
    mapping = yaml.safe_load((GOOD / "routes.yaml").read_text())
    from_file, from_mapping = good("routes"), load(mapping, ENVIRON)
    assert from_mapping.routes == from_file.routes
    assert from_mapping.plans == from_file.plans


def test_literals_are_fine_as_secrets_of_a_mapping_and_taken_verbatim() -> None:
    policy = of(
        identity={"secret": "pa$$word-of-canary-0123"},
        keys=[{"key": "canary-acme", "subject": "acme"}, {"key": "${OTHER_KEY}", "subject": "other"}],
        events={"sinks": [{"http": "https://billing.example/", "secret": "canary$hook"}]},
    )
    assert policy.identity.keyring.oldest.value == b"pa$$word-of-canary-0123"
    assert policy.listed(acme(policy)) is not None
    assert (
        policy.listed(pseudonym(policy.identity.keyring.oldest.value, Credential("canary-other"))) is not None
    )
    assert policy.events.sinks == (sink("http", "https://billing.example/", secret="canary$hook"),)


def test_relative_paths_of_a_mapping_begin_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert of(events={"journal": Path("here")}).events.journal == tmp_path / "here"


def test_problems_of_a_mapping_have_a_path_and_no_place() -> None:
    assert complaints({"version": 1, "service": "shop", "plans": {"default": {"limits": [{"rate": 5}]}}}) == [
        "plans.default.limits[0].rate: found 5; expected a rate such as 10/second"
    ]


@pytest.mark.parametrize(
    "value",
    [b"bytes", object(), {1: 2}, {"a": {None: 1}}, {1, 2}, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "\ud800"],
)
def test_values_that_yaml_has_none_of_are_problems(value: object) -> None:
    (found,) = complaints({"version": 1, "service": "shop", "mode": value})
    assert found.startswith("found ")


def test_mapping_that_holds_itself_is_a_problem() -> None:
    circle: dict[str, Any] = {"version": 1}
    circle["plans"] = circle
    assert complaints(circle) == ["found more than 20 levels of lists and mappings"]


def test_mapping_that_unfolds_without_end_is_a_problem() -> None:
    bomb: list[Any] = []
    for _ in range(15):
        bomb = [bomb] * 9
    assert complaints({"version": 1, "routes": bomb}) == ["found more than 1000000 values"]


# -- files


def test_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert complaints(tmp_path / "none.yaml") == [
        f"{tmp_path}/none.yaml: the policy cannot be read: No such file or directory"
    ]
    assert complaints(tmp_path) == [f"{tmp_path}: the policy cannot be read: Is a directory"]
    assert complaints("a\0b") == ["a\\x00b: the policy cannot be read: it is not a path"]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ([], "found a value of type list; expected the path of a policy file, a mapping, or a loaded Policy"),
        (None, "found a value of type NoneType; expected"),
        (b"meter.yaml", "found a value of type bytes; expected"),
        (7, "found a value of type int; expected"),
        ("", "the path of the policy is empty; expected the path of a policy file"),
        (" ", "the path of the policy is empty"),
    ],
)
def test_what_is_no_source_of_a_policy_is_a_problem(source: Any, complaint: str) -> None:
    """It is a PolicyError like any other, and never one of Python's own."""
    (found,) = complaints(source)
    assert found.startswith(complaint)


def test_nobody_is_refused_in_shadow_so_that_rejecting_everybody_is_fine() -> None:
    """What would be a policy that nobody passes is one that only records."""
    assert of(mode="shadow", identity={"unknown": "reject"}).keys == {}


def test_who_comes_without_a_key_or_through_a_resolver_is_somebody() -> None:
    """Unknown keys may be rejected where there is another way in."""
    assert of(identity={"unknown": "reject", "anonymous": {"plan": "default"}})
    assert of(identity={"unknown": "reject"}, keys={"resolver": lambda _: None})


def test_yaml_text_in_the_place_of_a_path_is_not_shown() -> None:
    assert complaints("version: 1\nservice: canary\n") == [
        "found several lines of text; expected the path of a policy file, or a mapping"
    ]


def test_file_of_more_than_a_mebibyte_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "meter.yaml"
    file.write_text("version: 1\nservice: shop\n#" + "x" * (1 << 20))
    (found,) = complaints(file)
    assert "a policy file has at most 1048576 (1 MiB)" in found


def test_problems_have_their_parts() -> None:
    with pytest.raises(PolicyError) as caught:
        load(BAD / "mode_misspelt.yaml", ENVIRON)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.path, problem.likely) == (3, 7, "mode", "shadow")
    assert problem.file == str(BAD / "mode_misspelt.yaml")


def test_many_problems_are_cut_short_and_counted() -> None:
    found = complaints({"version": 1, "service": "shop", "routes": [1] * 5000})
    assert len(found) == 1001
    assert found[-1] == "and at least 4000 more"


# -- digest


def test_digest_follows_the_document_and_not_what_it_refers_to(tmp_path: Path) -> None:
    file = tmp_path / "meter.yaml"
    file.write_text("version: 1\nservice: shop\nmode: ${MODE:-enforce}\n")
    one, two = load(file, ENVIRON), load(file, {**ENVIRON, "MODE": "shadow"})
    assert one.digest == two.digest
    file.write_text("version: 1\nservice: shop\nmode: shadow\n")
    assert load(file, ENVIRON).digest != one.digest
    assert len(one.digest) == 16


def test_digest_of_a_mapping_leaves_out_keys_and_secrets() -> None:
    def digest(secret: str, key: str, mode: str = "enforce") -> str:
        return of(mode=mode, identity={"secret": secret}, keys=[{"key": key, "subject": "a"}]).digest

    assert digest("s" * 16, "one") == digest("t" * 16, "two")
    assert digest("s" * 16, "one", "shadow") != digest("s" * 16, "one")
    assert load({"service": "shop", "version": 1}, ENVIRON).digest == of().digest


# -- secrets


def test_no_traceback_holds_a_secret_even_with_the_locals_of_our_frames() -> None:
    source = {
        "version": 1,
        "service": "shop",
        "identity": {"secret": "canary"},
        "keys": [{"key": "canary, key", "subject": "a"}, "canary", {"canary": "canary"}],
        "events": {"sinks": ["canary", {"http": "https://a:canary@b/", "secret": "whsec_canary!"}]},
        "store": "canary://canary",
    }
    with pytest.raises(PolicyError) as caught:
        load(source, ENVIRON)
    frames = traceback.walk_tb(caught.value.__traceback__)
    own = [frame.f_locals for frame, _ in frames if frame.f_code.co_filename.endswith("/loader.py")]
    assert own
    assert "canary" not in repr(own).replace("canary://", "")
    assert "canary" not in str(caught.value).replace("canary://", "")
    assert caught.value.__context__ is None


@pytest.mark.parametrize("place", ["mode", "timezone", "store", "service", "keys", "routes", "identity"])
def test_what_a_reference_stands_for_is_never_shown(place: str, tmp_path: Path) -> None:
    file = tmp_path / "meter.yaml"
    sections = {"version": "1", "service": "shop", place: "${CANARY}"}
    file.write_text("".join(f"{name}: {value}\n" for name, value in sections.items()))
    if place == "service":
        assert load(file, ENVIRON).service == "canary-value"
    else:
        assert "canary" not in "\n".join(complaints(file))


# -- whatever comes


def outcome(source: Path | dict[str, Any]) -> None:
    try:
        found: Policy | PolicyError = load(source, ENVIRON)
    except PolicyError as error:
        found = error
    if isinstance(found, PolicyError):
        assert found.problems
        assert all(str(problem).isprintable() for problem in found.problems)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_policy_or_problems(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "meter.yaml"
    file.write_bytes(data)
    outcome(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(alphabet="-?:,[]{}#&*!|>'\"%@`\\ \n\tab01.~<$U\ufeff", max_size=120))
def test_any_yaml_marks_give_a_policy_or_problems(tmp_path: Path, text: str) -> None:
    file = tmp_path / "meter.yaml"
    file.write_text(text)
    outcome(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.data())
def test_any_change_to_the_example_gives_a_policy_or_problems(tmp_path: Path, data: st.DataObject) -> None:
    text = EXAMPLE.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 12))
        put = data.draw(st.text(alphabet=string.printable + "$é\u2028", max_size=6))
        text = text[:start] + put + text[start + length :]
    file = tmp_path / "meter.yaml"
    file.write_text(text)
    outcome(file)


def words(text: str) -> list[str]:
    return text.split()


WORDS = words("""
    version service mode store timezone identity keys meters routes plans headers events api_key secret
    unknown anonymous trusted_proxies header query plan by file resolver key subject account anchor
    count path methods name exempt limits rate burst cap meter on_store_failure ietf legacy deadline
    journal durability privacy sinks http stdout default requests egress
    concurrent scope reserve estimate on_exhausted warn overage ceiling grace shadow charge when refund_on
    on_deny cost week_start checkpoint redis from_header strip until requests-month
""")
TEXTS = words("""
    enforce bearer reject accept 10/second 5/month 100ms none stdout memory:// /v1/{id} GET default egress
    80% 150% bill cut account counted always 5xx sunday 2m X-Tokens
    ${CANARY} ${UNSET} $ UTC 2026-01-31 requests reported os:getcwd https://a.example/ 1.5 ../.. 1_000
""")
VALUES = st.one_of(
    st.sampled_from(TEXTS), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=25,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=8))
def test_any_mapping_gives_a_policy_or_problems(mapping: dict[str, Any]) -> None:
    outcome({"version": 1, "service": "shop"} | mapping)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=8))
def test_any_structure_as_yaml_gives_a_policy_or_problems(tmp_path: Path, mapping: dict[str, Any]) -> None:
    file = tmp_path / "meter.yaml"
    file.write_text(json.dumps({"version": 1, "service": "shop"} | mapping))  # JSON is YAML 1.2
    outcome(file)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["- ", "[", "{a,", "? ", "*a ", "a: ", "&a ", "\t", "${A}", "'", "- {rate: 0/s}\n"]
)
def test_time_is_bounded_by_the_size(part: str, tmp_path: Path) -> None:
    file = tmp_path / "meter.yaml"
    file.write_text("version: 1\nservice: shop\nroutes: " + part * ((1 << 17) // len(part)))
    outcome(file)
