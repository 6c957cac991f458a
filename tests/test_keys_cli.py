"""`meter-mw keys`, as it is called, on a real Redis."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from meter_mw.cli import main
from meter_mw.policy.identity import Credential, pseudonym

if TYPE_CHECKING:
    from support.servers import RedisServer

SECRET = "a-secret-of-some-length"
POLICY = """
version: 1
service: shop
store: {store}
keys: {{redis: true, file: listed.yaml}}
plans:
  default: {{limits: [{{rate: 10/second}}, {{cap: 100/month}}, {{concurrent: 4}}]}}
  pro: {{limits: [{{cap: 1000/month}}, {{name: traffic, meter: egress, cap: 1 GiB/month}}]}}
routes:
  - {{path: /slow, limits: [{{name: slow, rate: 1/second}}]}}
"""
LISTED = """
- {key: "${LISTED_KEY}", subject: listed, plan: pro, exempt: counted, anchor: 2026-01-31}
- {key: "${OWN_KEY}", subject: own, plan: pro, limits: {requests-month: {cap: 5}}}
"""
ENVIRON = {
    "METER_KEY_SECRET": SECRET,
    "LISTED_KEY": "sk_listed",
    "OWN_KEY": "sk_own",
    "METER_POLICY": None,
    "METER_STORE": None,
}


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """Stand in a folder with a policy whose keys are in Redis."""
    monkeypatch.setattr("sys.path", ["somewhere"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meter.yaml").write_text(POLICY.format(store=redis_url))
    (tmp_path / "listed.yaml").write_text(LISTED)


def keys(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["keys", *words], env={**ENVIRON, **environ})


def made(*words: str) -> tuple[str, str]:
    """Make a key; give it and its id."""
    result = keys(*words)
    assert result.exit_code == 0, result.output
    (key,) = result.stdout.splitlines()
    return key, pseudonym(SECRET.encode(), Credential(key))[3:15]


def shown(name: str) -> dict[str, object]:
    result = keys("show", name, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def refused(*words: str, **environ: str) -> str:
    result = keys(*words, **environ)
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


def test_a_key_is_printed_when_it_is_made_and_never_again() -> None:
    result = keys("create", "acme", "--plan", "pro")
    (key,) = result.stdout.splitlines()
    assert re.fullmatch(r"mk_[A-Za-z0-9_-]{43}", key)
    name = pseudonym(SECRET.encode(), Credential(key))[3:15]
    assert result.stderr == (
        f'made the key {name} of "acme" on plan pro; this is the only time that it is shown\n'
    )
    others = [keys("list"), keys("list", "--json"), keys("show", name), keys("show", name, "--json")]
    others += [keys("override", name, "requests-month", "--cap", "7"), keys("revoke", name)]
    for other in others:
        assert other.exit_code == 0
        assert key not in other.output
        assert key[3:] not in other.output


def test_everything_that_create_is_told_is_shown() -> None:
    _, name = made(
        *("create", "acme", "--plan", "pro", "--account", "group", "--anchor", "2026-01-31"),
        *("--timezone", "Europe/Paris", "--exempt", "counted"),
    )
    said = shown(name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(said.pop("created")))
    assert str(said.pop("key")).startswith(f"k1_{name}")
    assert said == {
        "id": name,
        "subject": "acme",
        "plan": "pro",
        "account": "group",
        "anchor": "2026-01-31",
        "timezone": "Europe/Paris",
        "exempt": "counted",
        "limits": None,
        "expires": None,
        "revoked": None,
        "state": "active",
    }
    lines = keys("show", name).stdout.splitlines()
    assert "plan      pro" in lines
    assert not any(line.startswith("limits") for line in lines)


def test_the_list_is_a_table_in_the_order_of_subjects() -> None:
    assert keys("list").stderr == "no keys\n"
    _, one = made("create", "zebra")
    _, two = made("create", "acme", "--plan", "pro", "--account", "group")
    _, three = made("rotate", two, "--overlap", "7d")
    keys("revoke", one)
    heading, *rows = [re.split("  +", line) for line in keys("list").stdout.splitlines()]
    assert heading == ["id", "subject", "plan", "account", "created", "state"]
    assert [row[:4] for row in rows] == [
        [two, "acme", "pro", "group"],
        [three, "acme", "pro", "group"],
        [one, "zebra", "-", "-"],
    ]
    assert rows[0][5].startswith("until 20")
    assert [row[5] for row in rows[1:]] == ["active", "revoked"]
    assert [each["id"] for each in json.loads(keys("list", "--json", "--subject", "zebra").stdout)] == [one]


def test_rotation_prints_the_new_key_and_says_how_long_the_old_one_works() -> None:
    key, name = made("create", "acme", "--plan", "pro")
    result = keys("rotate", name[:6], "--overlap", "30m")
    (new,) = result.stdout.splitlines()
    assert new != key
    assert f"the key {name} works until {shown(name)['expires']}\n" in result.stderr
    renewed = pseudonym(SECRET.encode(), Credential(new))[3:15]
    assert (shown(renewed)["subject"], shown(renewed)["plan"]) == ("acme", "pro")
    assert keys("rotate", renewed, "--overlap", "0s").exit_code == 0
    assert shown(renewed)["state"] == "expired"


@pytest.mark.parametrize(
    ("limit", "words", "expected"),
    [
        (
            "requests-month",
            ("--cap", "20000", "--until", "2099-12-01"),
            {"cap": 20000, "until": "2099-12-01"},
        ),
        ("requests-month", ("--cap", "20000/month"), {"cap": "20000/month"}),
        (
            "requests-per-second",
            ("--rate", "50/second", "--burst", "100"),
            {"rate": "50/second", "burst": 100},
        ),
        ("concurrent", ("--concurrent", "20"), {"concurrent": 20}),
        ("slow", ("--rate", "5/minute"), {"rate": "5/minute"}),
    ],
)
def test_an_override_is_for_all_keys_of_the_subject(
    limit: str, words: tuple[str, ...], expected: dict[str, object]
) -> None:
    _, one = made("create", "acme")
    _, two = made("create", "acme")
    _, other = made("create", "other")
    result = keys("override", one, limit, *words)
    assert result.stdout == f'the limit {limit} is set for "acme", and so for all of its keys\n', (
        result.output
    )
    assert shown(one)["limits"] == shown(two)["limits"] == {limit: expected}
    assert shown(other)["limits"] is None
    assert keys("override", two, limit, "--clear").exit_code == 0
    assert shown(one)["limits"] is None


def test_overrides_of_different_limits_stand_beside_each_other() -> None:
    _, name = made("create", "acme", "--plan", "pro")
    keys("override", name, "requests-month", "--cap", "5")
    keys("override", name, "traffic", "--cap", "2 GiB")
    keys("override", name, "requests-month", "--cap", "6")
    assert shown(name)["limits"] == {"requests-month": {"cap": 6}, "traffic": {"cap": "2 GiB"}}
    keys("override", name, "requests-month", "--clear")
    assert shown(name)["limits"] == {"traffic": {"cap": "2 GiB"}}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ("--plan", "prp"),
            '--plan: found "prp", which is no plan of this policy; expected one of the plans',
        ),
        (("--plan", "prp"), 'did you mean "pro"?'),
        (("--anchor", "31.1.2026"), '--anchor: found "31.1.2026"; expected the date of a first period'),
        (("--timezone", "Paris"), 'did you mean "Europe/Paris"?'),
        (("--account", "k1_x"), '--account: found "k1_x"; expected 1 to 128 printable characters'),
        (("--plan", "${HOME}"), "--plan: "),
    ],
)
def test_create_refuses_what_the_policy_could_not_say(words: tuple[str, ...], complaint: str) -> None:
    assert complaint in refused("create", "acme", *words)
    assert keys("list").stderr == "no keys\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("requests-mnth", "--cap", "5"), 'did you mean "requests-month"?'),
        (("requests-mnth", "--cap", "5"), "which is no limit of the key's plan or of a route"),
        (("requests-month", "--rate", "5/second"), "requests-month.rate: the limit requests-month is a cap"),
        (("requests-month",), "requests-month.cap: cap is missing"),
        (("requests-month", "--cap", "5/day"), "which is another period than the limit's"),
        (("requests-month", "--cap", "lots"), 'found "lots"'),
        (("requests-month", "--cap", "5", "--until", "soon"), "requests-month.until: "),
        (
            ("requests-month", "--cap", "5", "--until", "2026-01-01"),
            "--until: found 2026-01-01, which has begun",
        ),
        (("concurrent", "--concurrent", "0"), "concurrent.concurrent: found 0"),
        (
            ("requests-month", "--clear"),
            'found "requests-month", for which "acme" has no override; it has none',
        ),
        (("requests-month", "--clear", "--cap", "5"), "--clear: found it beside --cap; expected either"),
    ],
)
def test_override_refuses_what_the_plan_does_not_have(words: tuple[str, ...], complaint: str) -> None:
    _, name = made("create", "acme")
    assert complaint in refused("override", name, *words)
    assert shown(name)["limits"] is None


def test_a_subject_that_exists_keeps_its_terms() -> None:
    made("create", "acme", "--plan", "pro", "--account", "group")
    _, second = made("create", "acme")
    assert (shown(second)["plan"], shown(second)["account"]) == ("pro", "group")
    assert refused("create", "acme", "--plan", "default") == (
        'the subject "acme" has another plan in the registry; keys of one subject share its terms\n'
    )


def test_a_subject_that_the_policy_lists_has_its_terms_there() -> None:
    _, name = made("create", "listed", "--plan", "pro")
    assert (shown(name)["exempt"], shown(name)["anchor"]) == ("counted", "2026-01-31")
    assert "has another timezone in the policy" in refused("create", "listed", "--timezone", "Europe/Paris")
    assert "lists with limits of its own" in refused("create", "own")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("create", "k1_acme"), 'SUBJECT: found "k1_acme"; expected 1 to 128 printable characters'),
        (("create", "two\nlines"), "SUBJECT: found "),
        (("show", "*"), "ID: found something else than 4 or more of the digits"),
        (("revoke", "mk_" + "x" * 43), "ID: found something else"),
        (("revoke", "abcd"), 'found no key "abcd"; meter-mw keys list shows the ids'),
        (
            ("rotate", "abcd", "--overlap", "a day"),
            '--overlap: found "a day"; expected a time such as 0s, 30m',
        ),
        (("rotate", "abcd", "--overlap", "400d"), "at most 366d"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...], complaint: str) -> None:
    stderr = refused(*words)
    assert complaint in stderr
    assert "xxx" not in stderr  # a key in the place of its id is not repeated


def test_policies_without_a_registry_and_stores_that_are_away_are_said(tmp_path: Path) -> None:
    Path("none.yaml").write_text("version: 1\nservice: shop\nstore: redis://127.0.0.1:1/0\n")
    assert "none.yaml: keys: found no registry; expected keys: {redis: true}" in refused(
        "list", "--policy", "none.yaml"
    )
    Path("away.yaml").write_text(
        "version: 1\nservice: shop\nstore: redis://127.0.0.1:1/0\nkeys: {redis: true}\n"
    )
    assert "redis at 127.0.0.1:1 cannot be reached" in refused("list", METER_POLICY="away.yaml")
    Path("memory.yaml").write_text("version: 1\nservice: shop\nstore: memory://\nkeys: {redis: true}\n")
    assert refused("list", "--policy", "memory.yaml").startswith("memory.yaml:4:")
    Path("meter.yaml").unlink()
    assert "name a file" in refused("list")


def test_a_damaged_record_is_named(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.hset("mw:keys:shop", "k1_" + "0" * 32, "{}")
    assert f"the record of the key k1_{'0' * 32} in the registry is damaged" in refused("list")
