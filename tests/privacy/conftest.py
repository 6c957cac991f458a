"""A service with a subject in every place that the meter keeps records in, and another one beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.journal.parked import Change, State, note, park, read_all
from meter_mw.meter import Meter
from meter_mw.sinks.windows.database import Database
from support.ledgers import usage
from support.policies import request

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

POLICY = """
version: 1
service: shop
store: {redis}
identity: {{secret: "${{METER_KEY_SECRET}}", unknown: accept}}
keys: {{redis: true}}
meters: {{requests: {{count: requests}}, tokens: {{count: reported}}}}
plans:
  default:
    price: {{base: 5, currency: EUR, charges: [{{meter: requests, unit: 0.10}}]}}
    limits: [{{cap: 1000/month, warn: [1]}}, {{name: each-key, cap: 900/month, scope: key}}]
on_store_failure: {{deadline: 5s}}
events:
  seal: {{secret: "${{METER_KEY_SECRET}}"}}
  privacy: {{user_agent: family}}
  sinks: [sql, {{file: usage.jsonl}}]
"""


@dataclass
class Service:
    """A folder with a policy, in which commands are run."""

    folder: Path

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    def done(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def exported(self, subject: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.done("export", subject).splitlines()]

    def serve(self, *keys: str) -> None:
        """Meter a request of each key, and deliver what is recorded."""
        meter = Meter("meter.yaml")
        for key in keys:
            exchange = meter.exchange(meter.admit(request(key=key, user_agent="curl/8")), "GET")
            exchange.add("tokens", 7)
            exchange.begin(200, None)
            meter.conclude(exchange)
        assert meter.flush(20)
        meter.close()

    def plant(self, subject: str) -> None:
        """Put a subject into the places that a plain request does not reach."""
        journal = self.folder / "var" / "meter"
        payload = usage(901, subject=subject)
        park(journal, "lago", "no such customer", payload)
        (parked,) = [each for each in read_all(journal).values() if each.payload == payload]
        note(journal, [parked], Change(State.DROPPED, 1.0, "planted", "test"))
        with Database(journal / "windows-lago").writing() as tables:
            tables.execute(
                "INSERT INTO windows (subject, start_us, end_us, due_us, last_us, events, sums, record, done)"
                " VALUES (?, 0, 1, 1, 1, 1, '{\"requests\": 1}', ?, 1)",
                (subject, f"{subject}:0:t-1".encode()),
            )

    def texts(self) -> dict[str, bytes]:
        """Give every file there is."""
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def service(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.delenv("METER_POLICY", raising=False)
    (tmp_path / "meter.yaml").write_text(POLICY.format(redis=redis_url))
    return Service(tmp_path)
