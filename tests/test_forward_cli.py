"""`meter-mw forward`, as a process beside others that write."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from werkzeug.test import Client
from werkzeug.wrappers import Response

from meter_mw.cli import main
from meter_mw.journal.estates import estate_paths
from meter_mw.meter import open_sinks
from meter_mw.policy.loader import load
from meter_mw.sinks.aggregate import Aggregate
from meter_mw.sinks.base import Delivered
from meter_mw.wsgi import MeterMiddleware
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

METER_MW = Path(sys.executable).with_name("meter-mw")
POLICY = """
version: 1
service: tests
identity: {secret: "${METER_KEY_SECRET}"}
events: {journal: var, forwarder: daemon, retention: 0 s, sinks: [{file: out/usage.jsonl}]}
"""

WINDOWED = """
version: 1
service: tests
identity: {secret: "${METER_KEY_SECRET}"}
events:
  journal: var
  forwarder: daemon
  sinks:
    - stripe: acct
      secret: "${STRIPE_KEY}"
      api: "http://127.0.0.1:1"
      stream: "http://127.0.0.1:1"
      window: 1 minute
"""

WRITER = """
import sys
from pathlib import Path
from meter_mw.journal import Forwarder, Journal
from meter_mw.sinks import FileSink
journal = Journal(Path("var"), "urn:meter-mw:tests", segment_bytes=1 << 16, sync_interval=0.001)
forwarder = Forwarder(journal, [FileSink(Path(sys.argv[2]))] if len(sys.argv) > 2 else [], adopt_every=0.05)
number = int(sys.argv[1])
while line := sys.stdin.readline():
    for _ in range(int(line)):
        journal.append(b'{"id": "event-%d", "time": "2026-11-21T10:00:00Z"}' % number)
        number += 1
    print(number, flush=True)
forwarder.close(20)
journal.close()
"""


class Running:
    """A process, ended with the test."""

    def __init__(self, *words: object) -> None:
        arguments = [str(word) for word in words]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def write(self, count: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline()

    def told(self, what: str) -> None:
        """Wait for a line of the log."""
        assert self.process.stderr is not None
        while what not in json.loads(self.process.stderr.readline())["what"]:
            pass

    def end(self, *signals: int) -> tuple[int, str]:
        for number in signals:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Stand in a folder with a policy; start processes there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "k" * 32)
    monkeypatch.setenv("STRIPE_KEY", "sk_test_1")
    Path("meter.yaml").write_text(POLICY)
    Path("out").mkdir()
    started: list[Running] = []

    def start(*words: object) -> Running:
        started.append(Running(*words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def writer(run: Callable[..., Running], first: int = 0, *sink: str) -> Running:
    return run(sys.executable, "-c", WRITER, first, *(str(Path(each).absolute()) for each in sink))


def forward(run: Callable[..., Running], *options: str) -> Running:
    return run(METER_MW, "forward", *options)


def delivered(path: str = "out/usage.jsonl") -> list[str]:
    text = Path(path).read_text() if Path(path).exists() else ""
    return [json.loads(line)["id"] for line in text.splitlines()]


def expected(numbers: range) -> list[str]:
    return [f"event-{number}" for number in numbers]


def await_(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_living_process_is_forwarded(run: Callable[..., Running]) -> None:
    """What it writes arrives while it lives, once and in order; after its end its estate goes."""
    app, daemon = writer(run), forward(run)
    app.write(500)
    await_(lambda: len(delivered()) == 500)
    app.write(500)
    await_(lambda: len(delivered()) == 1000)
    assert app.process.poll() is None
    app.process.kill()
    await_(lambda: estate_paths(Path("var")) == [])
    status, log = daemon.end(signal.SIGTERM)
    assert status == 0
    assert delivered() == expected(range(1000))
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[-1]["what"] == "all is delivered"
    assert {"at", "level", "from", "what"} == set(lines[-1])


def test_an_app_leaves_it_to_the_daemon(run: Callable[..., Running]) -> None:
    """With `forwarder: daemon` the process of the app writes, and sends nothing, not even at its end."""
    app = MeterMiddleware(Response("ok"), policy="meter.yaml")
    with Client(app).get("/", headers={"X-API-Key": "k"}) as response:
        assert response.status_code == 200
    assert app.meter.flush(30)
    app.meter.close()
    assert delivered() == []
    assert forward(run, "--once").process.wait(60) == 0
    assert len(delivered()) == 1


def test_a_thread_and_a_daemon_never_send_the_same(run: Callable[..., Running]) -> None:
    """Processes that forward by themselves, daemons that come and go: each event arrives exactly once."""
    apps = [writer(run, 100_000 * number, "out/usage.jsonl") for number in range(2)]
    for turn in range(2):
        daemons = [forward(run), forward(run)]
        for daemon in daemons:
            daemon.told("forwarding to")
        for app in apps:
            app.write(400)
        for daemon in daemons[: turn + 1]:
            assert daemon.end(signal.SIGTERM)[0] == 0
    for app in apps:
        assert app.end()[0] == 0
    last = forward(run, "--once")
    assert last.process.wait(60) == 0
    everything = expected(range(800)) + expected(range(100_000, 100_800))
    assert sorted(delivered()) == sorted(everything)


def test_once(run: Callable[..., Running]) -> None:
    """It ends with 0 when all is delivered; with 1, after the grace, when something stays."""
    app = writer(run)
    app.write(300)
    assert forward(run, "--once").process.wait(60) == 0
    assert delivered() == expected(range(300))
    Path("out").rename("away")
    app.write(10)
    status, log = forward(run, "--once", "--grace", "300 ms").end()
    assert status == 1
    assert "did not take 10 events" in log
    Path("away").rename("out")
    assert forward(run, "--once").process.wait(60) == 0
    assert delivered() == expected(range(310))


def test_once_waits_for_windows_that_are_over(run: Callable[..., Running]) -> None:
    """All is delivered when the records of closed windows are, and not when their events are in windows."""
    Path("meter.yaml").write_text(WINDOWED)
    (sink,) = open_sinks(load("meter.yaml"))
    assert isinstance(sink, Aggregate)
    then = datetime.now(UTC) - timedelta(hours=2)
    event: dict[str, object] = {"id": "event-1", "source": "urn:meter-mw:tests", "subject": "cus_1"}
    event |= {"type": "meter_mw.request.v1", "time": then.isoformat(), "data": {"requests": 1}}
    aggregate = Aggregate(sink.sink, sink.windows, ("requests",), clock=then.timestamp)
    assert aggregate.send([json.dumps(event).encode()]) == [Delivered()]
    status, log = forward(run, "--once", "--grace", "300 ms").end()
    assert status == 1
    assert "did not take 1 events" in log


def test_a_journal_that_cannot_be_read_is_told(run: Callable[..., Running]) -> None:
    """Nothing was looked at, so nothing is said to be delivered."""
    Path("var").write_text("no folder")
    result = CliRunner().invoke(main, ["forward", "--once"])
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr


def test_sigterm_delivers_what_is_there(run: Callable[..., Running]) -> None:
    """What the sink takes again within the grace is delivered before the end."""
    Path("out").rename("away")
    app, daemon = writer(run), forward(run)
    app.write(50)
    daemon.told("did not take 50 events")
    Path("away").rename("out")
    status, log = daemon.end(signal.SIGTERM)
    assert status == 0
    assert "all is delivered" in log
    assert delivered() == expected(range(50))


def test_a_second_sigterm_ends_at_once(run: Callable[..., Running]) -> None:
    """Though the grace is an hour and the sink is away; nothing is lost."""
    Path("out").rename("away")
    app, daemon = writer(run), forward(run, "--grace", "1 hour")
    app.write(50)
    daemon.told("did not take 50 events")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.told("ending")
    assert daemon.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM
    Path("away").rename("out")
    assert forward(run, "--once").process.wait(60) == 0
    assert delivered() == expected(range(50))


def asked(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_health(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Alive from the start, ready while no sink is behind; systemd is told."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        port = free_port()
        daemon = forward(run, "--health", f"127.0.0.1:{port}", "--grace", "100 ms")
        assert systemd.recv(100) == b"READY=1"
        assert asked(port, "/healthz") == (200, {"alive": True})
        assert asked(port, "/readyz")[0] == 200
        assert asked(port, "/elsewhere")[0] == 404
        Path("out").rename("away")
        app = writer(run)
        app.write(7)
        await_(lambda: "cannot be reached" in str(asked(port, "/status")[1]))
        assert asked(port, "/readyz")[0] == 503
        assert asked(port, "/healthz")[0] == 200
        status, said = asked(port, "/status")
        (sink,) = said["sinks"]  # type: ignore[misc]
        assert status == 200
        assert said["ready"] is False
        assert "cannot be reached" in sink["behind"]
        assert "No such file or directory" in sink["last_error"]
        Path("away").rename("out")
        await_(lambda: asked(port, "/readyz")[0] == 200)
        (sink,) = asked(port, "/status")[1]["sinks"]  # type: ignore[misc]
        assert (sink["lag_events"], sink["done"], sink["parked"]) == (0, 7, 0)
        assert daemon.end(signal.SIGTERM)[0] == 0
        assert systemd.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--grace", "5"), 'found "5"; expected a time'),
        (("--health", "9300"), 'found "9300"; expected an address'),
        (("--health", "127.0.0.1:99999"), "expected an address"),
        (("--policy", "none.yaml"), "none.yaml"),
    ],
)
def test_what_cannot_be_is_told(
    run: Callable[..., Running], options: tuple[str, ...], complaint: str
) -> None:
    """With what was found and what was expected, before anything is forwarded."""
    result = CliRunner().invoke(main, ["forward", *options])
    assert result.exit_code in (1, 2)
    assert complaint in result.stderr


def test_a_port_that_is_taken_is_told(run: Callable[..., Running]) -> None:
    """With the reason that the system gives."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        result = CliRunner().invoke(main, ["forward", "--health", address])
    assert result.exit_code == 1
    assert f"--health: {address}: Address already in use" in result.stderr


def test_kill_9_of_the_daemon_loses_nothing(run: Callable[..., Running]) -> None:
    """Its successor goes on; a copy has the same id, and nothing is missing."""
    app = writer(run)
    for _ in range(2):
        daemon = forward(run)
        daemon.told("forwarding to")
        app.write(4000)
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.end()
    assert forward(run, "--once").process.wait(60) == 0
    assert list(dict.fromkeys(delivered())) == expected(range(8000))


def test_a_journal_of_another_user_is_left_alone(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root writes there, the app could neither adopt nor delete."""
    Path("var").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    result = CliRunner().invoke(main, ["forward", "--once"])
    assert result.exit_code == 1
    assert "run this as" in result.stderr
