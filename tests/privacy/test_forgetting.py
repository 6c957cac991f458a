"""All that is held of a subject is found, and only that; forgotten, its name is nowhere, its amounts are."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Journal
from meter_mw.journal.parked import park
from meter_mw.ledger.tables import metadata
from meter_mw.policy.loader import load
from meter_mw.privacy.files import FilePlace, JournalPlace
from meter_mw.privacy.ledgers import tables_of_subjects
from meter_mw.privacy.telling import tombstone
from support.ledgers import usage

if TYPE_CHECKING:
    from conftest import Service

NAME = "jane-doe-gmbh"
SECRET = b"a-secret-for-this-test"


@pytest.fixture
def known(service: Service) -> Service:
    """Give a service that has met Jane, with two keys, and somebody else."""
    keys = [service.done("keys", "create", name).split()[0] for name in (NAME, NAME, "other")]
    service.serve(keys[0], keys[0], keys[1], keys[2], "an-unlisted-key")
    for name in (NAME, "other"):
        service.plant(name)
    return service


def clear_journal(service: Service) -> None:
    """Have the retention over: the segments of the dead go, as a forwarder would delete them."""
    for path in (service.folder / "var" / "meter").iterdir():
        if path.is_dir() and path.name.startswith("p0"):
            shutil.rmtree(path)


def sums(service: Service) -> list[tuple[object, ...]]:
    """Give what the ledger adds up to, whoever it is of."""
    connection = sqlite3.connect(service.folder / "var" / "meter" / "ledger.db")
    try:
        return [
            connection.execute(f"SELECT sum({unit}), sum(events) FROM {table}").fetchone()
            for table in ("meter_usage_hours", "meter_usage_days")
            for unit in ("requests", "response_bytes", "answers", "duration_us")
        ] + connection.execute("SELECT field, sum(units) FROM meter_quantity_days GROUP BY field").fetchall()
    finally:
        connection.close()


# -- export


def test_everything_that_is_held_is_found(known: Service) -> None:
    found = known.exported(NAME)
    kinds = {(str(each["place"]).split()[0], each["kind"]) for each in found}
    assert kinds == {
        ("registry", "key"),
        ("store", "count"),
        ("store", "state"),
        ("ledger", "meter_events"),
        ("ledger", "meter_quantities"),
        ("ledger", "meter_usage_hours"),
        ("ledger", "meter_usage_days"),
        ("ledger", "meter_quantity_hours"),
        ("ledger", "meter_quantity_days"),
        ("windows", "window"),
        ("parked", "parked"),
        ("file", "event"),
        ("journal", "event"),
    }
    events = [each["record"] for each in found if each["place"] == "journal"]
    types = sorted(str(each["type"]).split(".")[1] for each in events if isinstance(each, dict))
    assert types == ["request"] * 3 + ["threshold"]


def test_nothing_of_anybody_else_is_found(known: Service) -> None:
    text = known.done("export", NAME)
    assert NAME in text
    for other in ('"other"', "anon_", "an-unlisted-key"):
        assert other not in text
    mine, theirs = (
        {
            str(each["record"]["id"])
            for each in known.exported(name)
            if each["kind"] in ("event", "meter_events")
        }
        for name in (NAME, "other")
    )
    assert (len(mine), len(theirs)) == (4, 2)
    assert not mine & theirs


def test_a_key_that_no_list_names_is_found_by_its_pseudonym(known: Service) -> None:
    files = (known.folder / "usage.jsonl").read_text().splitlines()
    (subject,) = {json.loads(line)["subject"] for line in files} - {NAME, "other"}
    assert {str(each["place"]).split()[0] for each in known.exported(subject)} == {
        "store",
        "ledger",
        "file",
        "journal",
    }


def test_of_a_stranger_nothing_is_held(known: Service) -> None:
    assert known.done("export", "nobody") == ""


# -- forget


def test_who_is_forgotten_is_found_nowhere_and_amounts_are_as_they_were(known: Service) -> None:
    before, others = sums(known), known.done("export", "other")
    said = known.done("forget", NAME, "--yes", "--by", "dpo").splitlines()
    name = tombstone(SECRET, NAME)
    assert said[-1] == name
    assert [line for line in said if "stay" in line] == [
        f"file {known.folder}/usage.jsonl: 0 erased; 4 stay {FilePlace.remains}",
        f"journal: 0 erased; 4 stay {JournalPlace.remains}",
    ]
    assert sums(known)[:-1] == before[:-1]
    assert known.done("export", "other") == others
    assert {str(each["place"]).split()[0] for each in known.exported(NAME)} == {"file", "journal"}
    kept = [each for each in known.exported(name) if str(each["place"]).startswith("ledger")]
    assert len([each for each in kept if each["kind"] == "meter_events"]) == 3
    assert known.run("audit", "verify").exit_code == 0


def test_the_bill_is_the_same_under_the_other_name(known: Service) -> None:
    """Three requests at 0.10 and a base fee of 5."""

    def bill(name: str) -> str:
        month = datetime.now(UTC).strftime("%Y-%m")
        return known.done("invoice", name, "--period", month, "--format", "json").replace(name, "NAME")

    before = bill(NAME)
    known.done("forget", NAME, "--yes")
    assert bill(tombstone(SECRET, NAME)) == before
    assert '"5.30"' in before


def test_when_the_journal_is_old_and_the_file_rewritten_no_byte_says_the_name(
    known: Service, redis_url: str
) -> None:
    """Neither in freed pages of a database nor in a log of it."""
    known.done("forget", NAME, "--yes")
    clear_journal(known)
    (known.folder / "usage.jsonl").unlink()
    assert known.done("export", NAME) == ""
    named = {path for path, text in known.texts().items() if NAME.encode() in text}
    assert named == set()
    assert redis_url


def test_sinks_are_told_and_whoever_has_the_secret_knows_of_whom(known: Service) -> None:
    known.done("forget", NAME, "--yes", "--by", "dpo")
    known.serve("an-unlisted-key")
    lines = (known.folder / "usage.jsonl").read_text().splitlines()
    (told,) = [event for event in map(json.loads, lines) if event["type"] == "meter_mw.erasure.v1"]
    assert told["subject"] == tombstone(SECRET, NAME)
    assert told["data"]["secret"] == "k1"
    assert told["data"]["by"] == "dpo"
    assert NAME not in json.dumps(told)
    assert tombstone(b"another secret, as after a rotation", NAME) != told["subject"]


def test_a_key_of_who_was_forgotten_is_a_stranger_now(service: Service) -> None:
    """It is served as the policy says of unknown keys, and its usage is a new subject's."""
    key = service.done("keys", "create", NAME).split()[0]
    service.serve(key)
    service.done("forget", NAME, "--yes")
    service.serve(key)
    last = json.loads((service.folder / "usage.jsonl").read_text().splitlines()[-1])
    assert last["subject"].startswith("k1_")
    assert service.done("keys", "list") == ""


def test_forgotten_twice_the_amounts_add_up(service: Service) -> None:
    """One who came back in the same hour, under the same name, is added to what is kept already."""
    for _ in range(2):
        service.serve(service.done("keys", "create", NAME).split()[0])
        before = sums(service)
        service.done("forget", NAME, "--yes")
        assert sums(service) == before
    kept = service.exported(tombstone(SECRET, NAME))
    hours = [each["record"]["requests"] for each in kept if each["kind"] == "meter_usage_hours"]
    assert hours in ([2], [1, 1])  # it may be full between the two


def test_an_account_that_others_share_stays_and_one_of_its_own_goes(service: Service) -> None:
    for subject, account in ((NAME, "doe-family"), ("shared", "group"), ("mate", "group")):
        service.serve(service.done("keys", "create", subject, "--account", account).split()[0])
    for subject in (NAME, "shared"):
        service.done("forget", subject, "--yes")
    rows = {
        each["record"]["account"]
        for name in (NAME, "shared")
        for each in service.exported(tombstone(SECRET, name))
        if each["kind"] in ("meter_events", "meter_usage_days") and isinstance(each["record"], dict)
    }
    assert rows == {tombstone(SECRET, NAME), "group"}


def test_what_stands_in_the_way_is_said_and_nothing_is_done(known: Service) -> None:
    journal = known.folder / "var" / "meter"
    park(journal, "lago", "no such customer", usage(902, subject=NAME))
    on_its_way = Journal(journal, "urn:meter-mw:shop")
    on_its_way.append(usage(903, subject=NAME))
    on_its_way.close()
    before = known.done("export", NAME)
    result = known.run("forget", NAME, "--yes")
    assert result.exit_code == 1
    assert "parked: 1 events are parked; retry or drop them with meter-mw parked" in result.stderr
    assert "journal: 1 events to sql:sqlite:" in result.stderr
    assert "1 events to file:" in result.stderr
    assert known.done("export", NAME) == before


def test_a_subject_that_the_policy_lists_is_not_forgotten_while_it_does(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANES_KEY", "key-of-jane-0123456789")
    text = (service.folder / "meter.yaml").read_text()
    listed = text.replace("keys: {redis: true}", f'keys: [{{key: "${{JANES_KEY}}", subject: {NAME}}}]')
    (service.folder / "meter.yaml").write_text(listed)
    service.serve("key-of-jane-0123456789")
    result = service.run("forget", NAME, "--yes")
    assert result.stderr == f'policy: keys lists "{NAME}"; take it out there first, and restart the app\n'
    (service.folder / "meter.yaml").write_text(text)
    assert tombstone(SECRET, NAME) in service.done("forget", NAME, "--yes")


def test_it_is_asked_first_and_a_dry_run_does_nothing(known: Service) -> None:
    before = known.done("export", NAME)
    assert "registry: 2 records" in known.done("forget", NAME, "--dry-run")
    assert known.run("forget", NAME).exit_code == 1
    assert known.run("forget", "nobody", "--yes").stderr == 'nothing is held of "nobody"\n'
    assert known.run("forget", "erased_0", "--yes").exit_code == 1
    assert known.done("export", NAME) == before


def test_a_new_table_of_the_ledger_is_looked_at_here() -> None:
    """Those with a subject are erased by adding up their rows; the others say nothing of anybody."""
    assert {table.name for table in tables_of_subjects()} == {
        "meter_events",
        "meter_usage_hours",
        "meter_usage_days",
        "meter_quantity_hours",
        "meter_quantity_days",
        "meter_limited_hours",
    }
    others = {table.name for table in metadata.sorted_tables} - {table.name for table in tables_of_subjects()}
    assert others == {
        "meter_schema",
        "meter_retained",
        "meter_quantities",
        "meter_sketch_hours",
        "meter_sketch_days",
    }


def test_the_policy_of_this_suite_is_sound(service: Service) -> None:
    assert load("meter.yaml").registry
    assert service.run("check").exit_code == 0
