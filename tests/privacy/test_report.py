"""`meter-mw privacy report`: what is recorded is in it, nothing else is, and no secret and no machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from meter_mw import closing
from meter_mw.admission import Admission, Answer
from meter_mw.cli import main
from meter_mw.events import encode
from meter_mw.model import Receipt, RequestId
from meter_mw.policy.evidence import Address, Agent, EvidenceRules
from meter_mw.policy.loader import load
from meter_mw.policy.policy import NO_ROUTE, Unknown
from meter_mw.privacy.report import report
from support.policies import cap, policy

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
version: 1
service: shop
identity: {secret: "${METER_KEY_SECRET}", anonymous: {plan: default, by: ip}}
meters: {requests: {count: requests}, tokens: {count: reported}}
plans: {default: {limits: []}}
"""
EVERYTHING = """
store: redis://cache.internal:6379/0
keys: {redis: true}
events:
  journal: /srv/meter
  retention: 36 hours
  seal: {secret: "${METER_KEY_SECRET}"}
  privacy: {ip: truncated, user_agent: family}
  sinks:
    - {sql: "postgresql://billing:canary@db.internal/usage", retention: {events: 90 days}}
    - {file: /srv/usage.jsonl}
    - {http: "https://billing.example/events", secret: "${METER_KEY_SECRET}"}
    - {stripe: acct_shop, secret: "${STRIPE_KEY:-sk_canary}", by: call, window: 1 hour, meters: {requests: c}}
"""
DEFAULT = {"ip", "user_agent"}
DONE = "until its segment is done (8 MiB, or its process has ended)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.delenv("METER_POLICY", raising=False)
    return tmp_path


def told(folder: Path, text: str, form: str) -> str:
    (folder / "meter.yaml").write_text(text)
    result = CliRunner().invoke(main, ["privacy", "report", "--format", form], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def as_json(folder: Path, text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(folder, text, "json"))
    return found


def test_it_names_every_field_and_meter_and_no_field_that_is_not_asked_for(folder: Path) -> None:
    least, most = (
        {each["name"] for each in as_json(folder, text)["fields"]} for text in (HEAD, HEAD + EVERYTHING)
    )
    assert most - least == DEFAULT
    assert {"subject", "key", "route", "tokens", "request_bytes"} <= least


def test_it_names_every_place_and_how_long_it_keeps_what(folder: Path) -> None:
    found = as_json(folder, HEAD + EVERYTHING)["destinations"]
    assert [(each["name"], each["at"], each["kept"]) for each in found] == [
        (
            "journal",
            "/srv/meter",
            f"{DONE}, every destination has it, and 36 hours more",
        ),
        ("parked events", "/srv/meter", "until the operator deletes the file, or the subject is forgotten"),
        ("seals", "/srv/meter", "until the operator deletes them: they prove bills"),
        ("store", "Redis", "until the period of the limit is over"),
        ("registry", "Redis", "until the subject is forgotten"),
        (
            "ledger",
            "postgresql://db.internal/…",
            "events 90 days; the rest for ever, or until the subject is forgotten",
        ),
        ("file", "/srv/usage.jsonl", "as long as the operator keeps it"),
        ("http", "https://billing.example/…", "as its own operator says"),
        ("stripe", "acct_shop", "as its own operator says"),
    ]
    assert found[-1]["holds"] == "sums of events, without single ones"


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_it_shows_no_secret(folder: Path, form: str) -> None:
    found = told(folder, HEAD + EVERYTHING, form)
    assert "canary" not in found
    assert "a-secret-for-this-test" not in found


def test_the_page_for_customers_names_no_machine_of_ours(folder: Path) -> None:
    page = told(folder, HEAD + EVERYTHING, "markdown")
    assert "/srv" not in page
    assert "internal" not in page
    assert "https://billing.example/" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5}
    assert "| ip | yes |" in page


def test_the_text_is_a_table(folder: Path) -> None:
    lines = told(folder, HEAD, "text").splitlines()
    assert lines[0].startswith("what shop records (policy ")
    assert "requests without a key: a pseudonym of the client's network address" in lines[2]
    assert any(line.startswith("subject ") and "  yes " in line and line.endswith(" all") for line in lines)


@pytest.mark.parametrize(
    ("unknown", "said"), [(Unknown.ACCEPT, "a pseudonym"), (Unknown.POOL, "one name"), (Unknown.REJECT, None)]
)
def test_it_says_whom_usage_is_recorded_of(unknown: Unknown, said: str | None) -> None:
    found = report(policy(cap(1), unknown=unknown, anonymous=None)).subjects
    assert ("other keys" in found) is (said is not None)
    assert said is None or said in found


def test_what_an_event_holds_is_in_the_report(folder: Path) -> None:
    """Both are of one list: an event of a request, with all that a policy may ask for."""
    (folder / "meter.yaml").write_text(HEAD + EVERYTHING)
    rules = load("meter.yaml")
    assert rules.events.privacy == EvidenceRules(Address.TRUNCATED, Agent.FAMILY)
    evidence = (("ip", "203.0.113.0/24"), ("user_agent", "curl"))
    caller = rules.stranger("s", key="k1_0")
    asked = Admission(Answer.ALLOWED, RequestId("r"), 1, NO_ROUTE, caller, evidence=evidence)
    event = json.loads(encode(closing.usage_event(rules, asked, "GET", Receipt(1, 1, {"tokens": 1}, 200, 1))))
    names = {each.name for each in report(rules).fields}
    assert (event.keys() - {"data"}) | event["data"].keys() <= names
