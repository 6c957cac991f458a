"""Corrections: new events that name the one before, and take back no more than there was."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from meter_mw.adjusting import AdjustmentError, Recorded, adjustment, parse_changes, void, void_id
from meter_mw.cli import main
from meter_mw.events import encode
from meter_mw.journal import Entry, read_journal
from meter_mw.meter import Meter
from support.policies import policy, rate, request

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

RULES = policy(rate(1))


def event(**data: object) -> bytes:
    fields = {
        "requests": 2,
        "request_bytes": 10,
        "response_bytes": 0,
        "tokens": 7,
        "route": "v1",
        "status": 200,
    }
    return json.dumps(
        {
            "id": "rid-1",
            "source": RULES.source,
            "type": "meter_mw.request.v1",
            "subject": "acme",
            "time": "2026-01-31T23:59:59.5Z",
            "data": fields | {"plan": "default", "key": "k1_0"} | data,
        }
    ).encode()


def corrected(changes: dict[str, int], reason: str = "double submit") -> dict[str, Any]:
    original = Recorded.decode(RULES, event())
    made = adjustment(RULES, original, changes, rid="rid-2", time_us=1_000, reason=reason, by="ann")
    return json.loads(encode(made))  # type: ignore[no-any-return]


def test_a_correction_names_what_it_corrects_and_why() -> None:
    made = corrected({"requests": -1, "tokens": 3})
    assert (made["id"], made["type"], made["subject"]) == ("rid-2", "meter_mw.adjustment.v1", "acme")
    assert made["data"] == {
        "requests": -1,
        "tokens": 3,
        "route": "v1",
        "plan": "default",
        "key": "k1_0",
        "policy": RULES.digest,
        "amends": "rid-1",
        "reason": "double submit",
        "by": "ann",
    }


def test_no_more_is_taken_back_than_was_recorded() -> None:
    with pytest.raises(AdjustmentError, match="rid-1 recorded requests=2; -3 takes back more than that"):
        corrected({"requests": -3})
    with pytest.raises(AdjustmentError, match="recorded response_bytes=0"):
        corrected({"response_bytes": -1})


def test_a_correction_needs_a_reason() -> None:
    with pytest.raises(AdjustmentError, match="--why"):
        corrected({"requests": 1}, reason="  ")


def test_voiding_takes_back_all_that_counted_under_one_id() -> None:
    original = Recorded.decode(RULES, event())
    assert void(original) == {"requests": -2, "request_bytes": -10, "tokens": -7}
    assert void_id(original) == "void-rid-1"
    nothing = Recorded.decode(RULES, event(requests=0, request_bytes=0, tokens=0))
    with pytest.raises(AdjustmentError, match="counted nothing"):
        void(nothing)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("request=-1",), "found 'request'; expected one of requests, request_bytes"),
        (("requests",), "found 'requests'; expected requests=UNITS"),
        (("requests=1.5",), "whole units"),
        (("requests=--1",), "whole units"),
        (("requests=٣",), "whole units"),
        (("requests=99999999999999999",), "whole units"),
        (("requests=1", "requests=2"), "named twice"),
        (("requests=0",), "nothing would change"),
        ((), "nothing would change"),
    ],
)
def test_words_that_are_no_change_are_told(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(AdjustmentError, match=complaint):
        parse_changes(RULES, words)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"data": 1, "type": "x", "id": "y"}'])
def test_what_is_no_event_is_told(payload: bytes) -> None:
    with pytest.raises(AdjustmentError, match="not a usage event"):
        Recorded.decode(RULES, payload)


def test_a_threshold_is_not_corrected() -> None:
    payload = event().replace(b"request.v1", b"threshold.v1")
    with pytest.raises(AdjustmentError, match="holds usage to correct"):
        Recorded.decode(RULES, payload)


def test_what_another_service_recorded_is_not_corrected() -> None:
    """Services should not share a journal; where they do, each corrects its own."""
    payload = event().replace(RULES.source.encode(), b"urn:meter-mw:other")
    with pytest.raises(
        AdjustmentError, match=f"is of urn:meter-mw:other; this policy corrects {RULES.source}"
    ):
        Recorded.decode(RULES, payload)


# -- the command


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the one event that an app has recorded, with a policy in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.delenv("METER_POLICY", raising=False)
    (tmp_path / "meter.yaml").write_text("version: 1\nservice: shop\n")
    meter = Meter("meter.yaml")
    meter.conclude(meter.exchange(meter.admit(request("/v1", key="k")), "GET"))
    meter.close()
    return json.loads((tmp_path / "var/meter/usage.jsonl").read_text())  # type: ignore[no-any-return]


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["adjust", *words])


def journaled(folder: Path) -> list[dict[str, Any]]:
    found = [each for each in read_journal(folder / "var/meter") if isinstance(each, Entry)]
    return [json.loads(each.payload) for each in found]


def test_a_correction_reaches_the_sinks(recorded: dict[str, Any], tmp_path: Path) -> None:
    result = run(recorded["id"], "requests=-1", "--why", "goodwill", "--by", "ann")
    assert result.exit_code == 0, result.stderr
    Meter("meter.yaml").start()
    meter = Meter("meter.yaml")
    meter.start()
    assert meter.flush(10)
    meter.close()
    lines = (tmp_path / "var/meter/usage.jsonl").read_text().splitlines()
    correction = json.loads(lines[-1])
    assert correction == json.loads(result.stdout)
    assert correction["time"] == recorded["time"]
    assert correction["data"]["amends"] == recorded["id"]


def test_voiding_twice_is_one_event(recorded: dict[str, Any], tmp_path: Path) -> None:
    assert run(recorded["id"], "--void", "--why", "test").exit_code == 0
    assert run(recorded["id"], "--void", "--why", "test").exit_code == 0
    voids = {each["id"] for each in journaled(tmp_path) if each["type"] == "meter_mw.adjustment.v1"}
    assert voids == {f"void-{recorded['id']}"}


def test_an_invoiced_period_is_corrected_in_the_present_one(recorded: dict[str, Any]) -> None:
    result = run(recorded["id"], "requests=-1", "--why", "late", "--now", "--dry-run")
    assert json.loads(result.stdout)["time"] > recorded["time"]
    assert "not recorded" in result.stderr


def test_a_copy_stands_in_for_an_event_that_is_gone(recorded: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "copy.json").write_text(json.dumps(recorded | {"id": "gone"}))
    result = run("gone", "requests=-1", "--why", "x", "--event-file", "copy.json", "--dry-run")
    assert json.loads(result.stdout)["data"]["amends"] == "gone"
    assert (
        "holds event gone, not other"
        in run("other", "requests=-1", "--why", "x", "--event-file", "copy.json").stderr
    )


def test_bad_words_are_told_and_nothing_is_recorded(recorded: dict[str, Any], tmp_path: Path) -> None:
    before = len(journaled(tmp_path))
    assert "is not in" in run("no-such-id", "requests=-1", "--why", "x").stderr
    assert "takes back more" in run(recorded["id"], "requests=-2", "--why", "x").stderr
    assert "expected either FIELD=UNITS or --void" in run(recorded["id"], "--why", "x").stderr
    assert run(recorded["id"], "requests=-1").exit_code == 2
    assert len(journaled(tmp_path)) == before


def test_corrections_together_take_back_no_more_than_there_was(recorded: dict[str, Any]) -> None:
    """Each alone would be right: the second finds what the first has left."""
    assert run(recorded["id"], "requests=-1", "--why", "goodwill").exit_code == 0
    result = run(recorded["id"], "requests=-1", "--why", "again")
    assert result.exit_code == 1
    assert "recorded requests=1, corrected by -1 since; -1 takes back more than that" in result.stderr


def test_voiding_after_a_correction_takes_back_the_rest(recorded: dict[str, Any], tmp_path: Path) -> None:
    assert run(recorded["id"], "requests=4", "--why", "was counted short").exit_code == 0
    assert run(recorded["id"], "requests=-2", "--why", "goodwill").exit_code == 0
    assert run(recorded["id"], "--void", "--why", "our fault").exit_code == 0
    made = [each for each in journaled(tmp_path) if each["type"] == "meter_mw.adjustment.v1"]
    assert sum(each["data"].get("requests", 0) for each in made) == -1
    assert all(each["id"] != f"void-{recorded['id']}" for each in made)  # it would cancel the original alone
    assert "has nothing left" in run(recorded["id"], "--void", "--why", "again").stderr


def test_what_is_void_is_not_voided_again(recorded: dict[str, Any], tmp_path: Path) -> None:
    first = run(recorded["id"], "--void", "--why", "our fault")
    again = run(recorded["id"], "--void", "--why", "another reason", "--now")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "recorded already" in again.stderr
    assert len([each for each in journaled(tmp_path) if each["type"] == "meter_mw.adjustment.v1"]) == 1


def test_a_correction_that_no_disk_takes_is_not_called_recorded(
    recorded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.modules["meter_mw.cli.recording"], "_PATIENCE", 0.2)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    result = run(recorded["id"], "requests=-1", "--why", "goodwill")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not recorded" in result.stderr
    assert len(journaled(tmp_path)) == 1


def test_a_journal_that_cannot_be_read_is_told(recorded: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "meter.yaml").write_text("version: 1\nservice: shop\nevents: {journal: file}\n")
    result = run(recorded["id"], "--void", "--why", "x")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "Not a directory" in result.stderr


def test_a_journal_of_another_user_is_left_alone(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root writes there, the app could neither adopt nor delete."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    result = run(recorded["id"], "requests=-1", "--why", "x")
    assert result.exit_code == 1
    assert "run this as" in result.stderr
