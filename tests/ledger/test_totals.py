"""Totals are equal at every level: the client's own count, the events, the ledger and its roll-ups.

Workers serve, are killed and restarted; meanwhile a third of what they recorded is delivered again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

from meter_mw import current, load
from meter_mw.invoicing.bills import Billing
from meter_mw.invoicing.customers import customer
from meter_mw.invoicing.source import LedgerUsage
from meter_mw.ledger.database import Database
from meter_mw.ledger.insight import outcomes, sketches
from meter_mw.ledger.reports import usage, usage_by
from meter_mw.ledger.spans import Span
from meter_mw.periods import Period
from meter_mw.sinks import Delivered, Duplicate
from meter_mw.sinks.sql import SqlSink
from meter_mw.wsgi import MeterMiddleware
from support.ledgers import Ledger, PostgresLedger, SqliteLedger, rolled_up, stored_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.process import BaseProcess

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(240)]

METER_MW = Path(sys.executable).with_name("meter-mw")
WORKERS = 2
KILLS = 2
"""Of each worker."""

SUBJECTS = ("acme", "globex", "initech")
EVER = Span(0, 2**53)
POLICY = """
version: 1
service: shop
identity: {{secret: "${{METER_KEY_SECRET}}"}}
keys:
  - {{key: "${{KEY_OF_ACME}}", subject: acme}}
  - {{key: "${{KEY_OF_GLOBEX}}", subject: globex}}
  - {{key: "${{KEY_OF_INITECH}}", subject: initech}}
plans:
  default:
    price:
      currency: USD
      charges: [{{meter: requests, unit: 1}}, {{meter: egress, unit: 0.01}}, {{meter: tokens, unit: 0.1}}]
meters: {{requests: {{count: requests}}, egress: {{count: response-bytes}}, tokens: {{count: reported}}}}
routes: [{{path: /ask, name: ask, meters: {{requests: 2}}}}, {{path: "/{{rest:path}}", name: other}}]
events:
  journal: journal
  retention: 0 s
  sinks: [{{file: usage.jsonl}}, {{sql: "{address}", timeout: 30 s}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a secret of 32 bytes ...........")
    for name in SUBJECTS:
        monkeypatch.setenv(f"KEY_OF_{name.upper()}", f"the-key-of-{name}")
    return tmp_path


@pytest.mark.parametrize(("kind", "requests"), [("sqlite", 100_000), ("postgresql", 10_000)])
def test_totals_are_equal_at_every_level(
    kind: str, requests: int, folder: Path, request: pytest.FixtureRequest
) -> None:
    """What each client counted is what was recorded, delivered, rolled up, reported and billed."""
    ledger: Ledger = SqliteLedger(folder)
    if kind == "postgresql":
        ledger = PostgresLedger(request.getfixturevalue("postgres_server"))
    (folder / "meter.yaml").write_text(POLICY.format(address=ledger.address))
    copies = _run(ledger, requests // WORKERS)
    assert copies > requests // 10

    counted = {each["id"]: each for worker in range(WORKERS) for each in _noted(worker)}
    recorded = {each["id"]: each for each in map(json.loads, Path("usage.jsonl").read_text().splitlines())}
    assert len(counted) == requests
    beyond = recorded.keys() - counted.keys()  # recorded, but their client was killed with the worker
    assert counted.keys() <= recorded.keys()
    assert len(beyond) <= WORKERS * KILLS
    for each in counted.values():
        told = recorded[each["id"]]
        assert each == {"id": each["id"], "subject": told["subject"], **_units(told)}

    facts: Counter[tuple[str, str]] = Counter()
    for each in (*counted.values(), *(_whole(recorded[rid]) for rid in beyond)):
        for field in ("requests", "response_bytes", "tokens"):
            facts[each["subject"], field] += each[field]
    assert stored_ids(ledger) == set(recorded)
    assert rolled_up(ledger) == facts
    _reported(ledger, facts, len(recorded))
    _invoiced(ledger, facts)


def _reported(ledger: Ledger, facts: Counter[tuple[str, str]], events: int) -> None:
    database = Database(ledger.address, 60)
    rows = usage_by(database, ("subject",), EVER)
    assert {(row.subject, row.field): row.units for row in rows} == facts
    for name in SUBJECTS:
        used = usage(database, subject=name, period=EVER)
        assert {(name, each.field): each.units for each in used} == {
            key: units for key, units in facts.items() if key[0] == name
        }
    (everything,) = outcomes(database, (), EVER)
    assert (everything.answers, everything.successes) == (events, events)
    counts = [sum(each.counts.values()) for each in sketches(database, EVER, measures=["duration_us"])]
    assert sum(counts) == events
    database.close()


def _invoiced(ledger: Ledger, facts: Counter[tuple[str, str]]) -> None:
    """Bill the present month and the one before, in which a run at the turn of a month began."""
    policy = load("meter.yaml")
    fields = {each.name: each.field for each in policy.meters}
    database = Database(ledger.address, 60)
    now_us = time.time_ns() // 1000
    billing = Billing(policy, LedgerUsage(database, policy.source), now_us)
    billed: Counter[tuple[str, str]] = Counter()
    for name in SUBJECTS:
        who = customer(policy, name)
        present = who.at(Period.MONTH, now_us)
        for span in (who.before(Period.MONTH, present), present):
            (invoice,) = billing.bill(who, Period.MONTH, span).invoices
            for line in invoice.lines:
                billed[name, fields[line.meter or ""]] += int(line.quantity or 0)
    assert billed == facts
    database.close()


# -- those who serve, and those who deliver once more


def _run(ledger: Ledger, requests: int) -> int:
    """Have everything served and delivered; return how many copies were delivered on purpose."""
    dice = random.Random(7)
    context = multiprocessing.get_context("fork")
    targets = [[requests * (part + 1) // (KILLS + 1) for part in range(KILLS + 1)] for _ in range(WORKERS)]
    living: list[BaseProcess | None] = [None] * WORKERS
    meddler = Meddler(ledger, dice)
    while any(targets):
        for worker, process in enumerate(living):
            if process is None and targets[worker]:
                living[worker] = context.Process(target=_serve, args=(worker, requests))
                living[worker].start()
            elif process is not None and _is_over(process, worker, targets[worker]):
                living[worker] = None
                del targets[worker][0]
        meddler.meddle()
    forwarded = subprocess.run([METER_MW, "forward", "--once"], capture_output=True, check=False, timeout=120)
    assert forwarded.returncode == 0, forwarded.stderr
    return meddler.close()


def _is_over(process: BaseProcess, worker: int, targets: list[int]) -> bool:
    """Kill a worker that has come far enough, but for the last one, which ends by itself."""
    if len(targets) > 1 and _progress(worker) >= targets[0]:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return True
    if process.exitcode is not None:
        assert (process.exitcode, len(targets)) == (0, 1)
        return True
    return False


class Meddler:
    """Delivers a part of what was recorded once more, beside those whose task it is."""

    def __init__(self, ledger: Ledger, dice: random.Random) -> None:
        self._sink = SqlSink(ledger.address, "urn:meter-mw:shop", timeout=60)
        self._dice = dice
        self._read = 0
        self._copies = 0

    def meddle(self) -> None:
        """Deliver a third of what is new, with some twice in one batch."""
        time.sleep(0.1)
        path = Path("usage.jsonl")
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            *lines, rest = file.read().split(b"\n")
            self._read = file.tell() - len(rest)
        some = [line for line in lines if self._dice.random() < 1 / 3]
        for start in range(0, len(some), 1_000):
            batch = some[start : start + 1_000]
            batch += batch[:10]
            outcomes = self._sink.send(batch)
            assert all(isinstance(each, Delivered | Duplicate) for each in outcomes)
            self._copies += len(batch)

    def close(self) -> int:
        """Deliver the last ones, and give how many there were."""
        self.meddle()
        self._sink.close()
        return self._copies


def _app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    number = int(environ["HTTP_X_NUMBER"])
    if number % 3 == 0:
        current().add("tokens", number % 11)
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield str(current().id).encode()
    yield b"." * (number % 50)


def _serve(worker: int, requests: int) -> None:
    """Serve what is left to serve, to a client that notes what it was served."""
    middleware = MeterMiddleware(_app, policy="meter.yaml")
    with Path(f"client-{worker}").open("ab", buffering=0) as notes:
        for number in range(_progress(worker), requests):
            subject = SUBJECTS[number % 7 % 3]
            path = "/ask" if number % 5 == 0 else "/items"
            body = _answer(middleware, path, subject, number)
            units = {
                "requests": 2 if path == "/ask" else 1,
                "response_bytes": len(body),
                "tokens": number % 11 if number % 3 == 0 else 0,
            }
            rid = body.rstrip(b".").decode()
            notes.write(json.dumps({"id": rid, "subject": subject, **units}).encode() + b"\n")
    assert middleware.meter.flush(100)
    middleware.meter.close()


def _answer(middleware: MeterMiddleware, path: str, subject: str, number: int) -> bytes:
    environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_X_API_KEY": f"the-key-of-{subject}"}
    environ["HTTP_X_NUMBER"] = str(number)
    setup_testing_defaults(environ)
    parts = middleware(environ, lambda *_: None)  # type: ignore[arg-type, return-value]
    try:
        return b"".join(parts)
    finally:
        parts.close()  # type: ignore[attr-defined]


def _progress(worker: int) -> int:
    try:
        return Path(f"client-{worker}").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _noted(worker: int) -> Iterator[dict[str, Any]]:
    return map(json.loads, Path(f"client-{worker}").read_text().splitlines())


def _units(event: dict[str, Any]) -> dict[str, int]:
    return {field: event["data"].get(field, 0) for field in ("requests", "response_bytes", "tokens")}


def _whole(event: dict[str, Any]) -> dict[str, Any]:
    return {"subject": event["subject"], **_units(event)}
