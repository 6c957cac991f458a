"""`meter-mw audit`: from a metered app's journal to a proof in a customer's hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meter_mw.audit.ed25519 import private_key
from meter_mw.cli import main
from meter_mw.meter import Meter
from support.policies import request

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def folder(tmp_path: Path, pem: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a policy and a journal that three requests were recorded in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.delenv("METER_POLICY", raising=False)
    (tmp_path / "seal.pem").write_bytes(pem)
    (tmp_path / "public.pem").write_text(private_key(pem).pem())
    (tmp_path / "meter.yaml").write_text(
        "version: 1\nservice: shop\nevents:\n  seal: {private_key: '${file:seal.pem}'}\n"
    )
    meter = Meter("meter.yaml")
    for _ in range(3):
        meter.conclude(meter.exchange(meter.admit(request(key="k")), "GET"))
    meter.close()
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["audit", *words])


def test_a_journal_is_verified_and_its_change_is_found(folder: Path) -> None:
    result = run("verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no findings" in result.stderr
    (segment,) = (folder / "var" / "meter").glob("p*/*.seg")
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"requests":1', b'"requests":0', 1))
    result = run("verify", "--public-key", "public.pem")
    assert result.exit_code == 1
    assert "is missing" in result.stdout


def test_a_proof_is_made_and_checked(folder: Path) -> None:
    events = [json.loads(line) for line in (folder / "var/meter/usage.jsonl").read_text().splitlines()]
    result = run("prove", events[1]["id"])
    assert result.exit_code == 0
    (folder / "proof.json").write_text(result.stdout)
    assert events[0]["id"] not in result.stdout
    result = run("check", "proof.json", "--public-key", "public.pem")
    assert result.exit_code == 0
    assert "recorded: record 1 of 3" in result.stdout
    (folder / "proof.json").write_text((folder / "proof.json").read_text().replace("GET", "PUT"))
    result = run("check", "proof.json")
    assert result.exit_code == 1
    assert "the event is not among the sealed records" in result.stderr


def test_an_event_that_the_journal_has_no_more_is_proved_by_its_copy(folder: Path) -> None:
    line = (folder / "var/meter/usage.jsonl").read_text().splitlines()[2]
    (folder / "event.json").write_text(line + "\n")
    assert run("prove", json.loads(line)["id"], "--event-file", "event.json").exit_code == 0
    result = run("prove", "no-such-id")
    assert result.exit_code == 1
    assert "is not in" in result.stderr


def test_the_head_is_printed_and_looked_for(folder: Path) -> None:
    head = run("head").stdout.strip()
    assert len(head) == 64
    assert run("verify", "--head", head).exit_code == 0
    assert run("verify", "--head", "0" * 64).exit_code == 1
    assert (folder / "var/meter/seals/book.jsonl").stat().st_mode & 0o777 == 0o600


def test_without_a_seal_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    (tmp_path / "meter.yaml").write_text("version: 1\nservice: shop\n")
    result = run("verify")
    assert result.exit_code == 1
    assert "the policy has no events.seal" in result.stderr


def test_a_correction_is_sealed_like_all_else(folder: Path) -> None:
    (line, *_) = (folder / "var/meter/usage.jsonl").read_text().splitlines()
    words = ["adjust", json.loads(line)["id"], "--void", "--why", "our fault"]
    assert CliRunner().invoke(main, words).exit_code == 0
    result = run("verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 seals checked" in result.stderr
