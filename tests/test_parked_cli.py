"""`meter-mw parked`, as it is called."""

from __future__ import annotations

import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from meter_mw.cli import main
from meter_mw.journal.parked import park, parked_id, read_all
from meter_mw.journal.unparking import sole
from meter_mw.recovery.trail import STORE
from meter_mw.sinks import HttpSink

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = """
version: 1
service: shop
identity: {{secret: "{secret}"}}
events:
  journal: var
  sinks:
    - {{file: usage.jsonl}}
    - {{http: "{url}"}}
"""


def event(number: int) -> bytes:
    return json.dumps({"id": f"event-{number}", "specversion": "1.0"}).encode()


class Biller(ThreadingHTTPServer):
    """Answers with `status`, and remembers what it took."""

    daemon_threads = True

    def __init__(self) -> None:
        self.status = 204
        self.seen: list[str] = []
        biller = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if biller.status == 204:
                    biller.seen += [one["id"] for one in body]
                self.send_response(biller.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/events"


@pytest.fixture
def biller() -> Iterator[Biller]:
    biller = Biller()
    yield biller
    biller.shutdown()
    biller.server_close()


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, biller: Biller) -> None:
    """Stand in a folder with a policy and two parked events, one of each sink."""
    monkeypatch.setattr("sys.path", ["somewhere"])
    monkeypatch.setattr("meter_mw.sinks.http.HttpSink.horizon", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "k" * 32)
    Path("meter.yaml").write_text(POLICY.format(url=biller.url, secret="${METER_KEY_SECRET}"))
    Path("var").mkdir()
    park(Path("var"), file_sink(), "bad", event(1))
    park(Path("var"), HttpSink(biller.url).name, "no such meter", event(2))


def parked(*words: str) -> Result:
    return CliRunner().invoke(main, ["parked", *words])


def file_sink() -> str:
    return f"file:{Path.cwd() / 'usage.jsonl'}"


def of_file() -> str:
    return parked_id(file_sink(), event(1))


def of_http(biller: Biller, number: int = 2) -> str:
    return parked_id(HttpSink(biller.url).name, event(number))


def test_ls(biller: Biller) -> None:
    """One line an event: what it is known by, where it was to go, and why it did not."""
    result = parked("ls")
    assert result.exit_code == 0
    header, *rows = (re.split(" {2,}", line) for line in result.stdout.splitlines())
    assert header == ["id", "state", "at", "sink", "event", "reason"]
    assert [(row[0], row[1], row[4], row[5]) for row in rows] == [
        (of_file(), "parked", "event-1", "bad"),
        (of_http(biller), "parked", "event-2", "no such meter"),
    ]
    assert len(parked("ls", "--sink", file_sink()).stdout.splitlines()) == 2
    (line,) = parked("ls", "--json", "--sink", file_sink()).stdout.splitlines()
    assert json.loads(line)["event"] == "event-1"


def test_ls_of_nothing() -> None:
    """It says so, and that is no failure."""
    for path in Path("var").iterdir():
        path.unlink()
    result = parked("ls")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing is parked\n")


def test_show() -> None:
    """The bytes, and what was done with the event."""
    shown = json.loads(parked("show", of_file()).stdout)
    assert shown["payload"] == event(1).decode()
    assert [change["state"] for change in shown["changes"]] == ["parked"]


def test_retry_by_id(biller: Biller) -> None:
    """It is delivered once, and leaves the list; the record stays."""
    result = parked("retry", of_http(biller))
    assert (result.exit_code, result.stderr) == (0, "1 of 1 events delivered\n")
    assert biller.seen == ["event-2"]
    assert len(parked("ls").stdout.splitlines()) == 2
    assert len(parked("ls", "--all").stdout.splitlines()) == 3
    again = parked("retry", of_http(biller))
    assert again.exit_code == 1
    assert again.stderr == f"{of_http(biller)} is retried already; nothing was done\n"
    assert biller.seen == ["event-2"]


def test_retry_of_a_sink_and_of_all(biller: Biller) -> None:
    """Each to its own sink."""
    assert parked("retry", "--sink", file_sink()).exit_code == 0
    assert Path("usage.jsonl").read_bytes() == event(1) + b"\n"
    assert parked("retry", "--all").exit_code == 0
    assert biller.seen == ["event-2"]
    assert parked("ls").stderr == "nothing is parked\n"


def test_a_retry_that_is_not_taken(biller: Biller) -> None:
    """It stays parked, the reason is told, and the exit status is 1."""
    biller.status = 503
    result = parked("retry", "--all")
    assert result.exit_code == 1
    assert f"{of_http(biller)} stays parked: HTTP 503" in result.stderr
    assert "1 of 2 events delivered" in result.stderr
    biller.status = 204
    assert parked("retry", "--all").exit_code == 0


def test_what_is_in_doubt_must_be_said(biller: Biller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The destination may have forgotten the id: nothing is sent before somebody has said --anyway."""
    monkeypatch.setattr("meter_mw.sinks.http.HttpSink.horizon", 86_400.0)
    park(Path("var"), HttpSink(biller.url).name, "in doubt", event(3), sent=1000.0)
    result = parked("retry", of_http(biller, 3))
    assert result.exit_code == 1
    assert "--anyway" in result.stderr
    assert biller.seen == []
    assert parked("retry", of_http(biller, 3), "--anyway").exit_code == 0
    assert biller.seen == ["event-3"]


def test_drop(biller: Biller) -> None:
    """A decision with a reason, on record with its author; it cannot be retried by mistake."""
    assert parked("drop", of_file()).exit_code == 2
    assert parked("drop", of_file(), "--why", "  ").exit_code == 2
    result = parked("drop", of_file(), "--why", "billed by hand")
    assert (result.exit_code, result.stderr) == (0, "1 dropped\n")
    last = read_all(Path("var"))[of_file()].changes[-1]
    assert (last.state.value, last.why) == ("dropped", "billed by hand")
    assert last.by
    assert parked("retry", of_file()).exit_code == 1
    assert not Path("usage.jsonl").exists()


@pytest.mark.parametrize("command", [("show",), ("retry",), ("drop", "--why", "x")])
def test_an_id_that_is_none(command: tuple[str, ...]) -> None:
    """Nothing is done, not even for those that are there."""
    words = (*command, "0123456789ab") if command == ("show",) else (*command, of_file(), "0123456789ab")
    result = parked(*words)
    assert result.exit_code == 1
    assert 'ID: found "0123456789ab"; expected one that meter-mw parked ls shows' in result.stderr
    assert read_all(Path("var"))[of_file()].waits


def test_what_to_retry_must_be_said(biller: Biller) -> None:
    """Nothing, or two ways at once, is a mistake; so is a sink of which nothing is parked."""
    assert parked("retry").exit_code == 2
    assert parked("retry", of_file(), "--all").exit_code == 2
    result = parked("retry", "--sink", "x")
    assert result.exit_code == 1
    assert 'found "x"' in result.stderr
    assert biller.seen == []


def test_a_sink_that_the_policy_has_no_more() -> None:
    """Its events stay, and this is told."""
    Path("meter.yaml").write_text(Path("meter.yaml").read_text().replace("{file: usage.jsonl}", "stdout"))
    result = parked("retry", of_file())
    assert result.exit_code == 1
    assert f"the policy has no sink {file_sink()} any more" in result.stderr


def test_one_at_a_time(biller: Biller) -> None:
    """Beside another one that is at work nothing is done, so nothing is sent twice."""
    with sole(Path("var")):
        result = parked("retry", "--all")
    assert result.exit_code == 1
    assert result.stderr == "another meter-mw parked is at work here; nothing was done\n"
    assert biller.seen == []


def test_a_closing_for_the_store_is_no_event_of_a_sink() -> None:
    """It is told for what it is, and not as of a sink that the policy has lost."""
    park(Path("var"), STORE, "in doubt", b"\x81\xff")
    result = parked("retry", parked_id(STORE, b"\x81\xff"))
    assert result.exit_code == 1
    assert "counts are off by it, and no bill: drop it" in result.stderr


def test_a_journal_of_another_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What root writes there, the app could neither adopt nor delete."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    result = parked("retry", "--all")
    assert result.exit_code == 1
    assert "run this as" in result.stderr
