"""`meter-mw dashboard`: what it refuses to serve, and that it serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from dashboard.scenes import ENVIRON, TOKEN, written
from meter_mw.cli import main

METER_MW = Path(sys.executable).with_name("meter-mw")


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the folder of a shop that has served nobody yet."""
    monkeypatch.setattr("sys.path", [*sys.path])  # which the command adds to
    monkeypatch.chdir(tmp_path)
    written(tmp_path)


def run(*words: str, **environ: str) -> Result:
    unset = {"METER_POLICY": None, "METER_DASHBOARD_TOKEN": None}
    return CliRunner().invoke(main, ["dashboard", *words], env={**ENVIRON, **unset, **environ})


@pytest.mark.parametrize("address", ["0.0.0.0:9310", "[::]:9310", "192.0.2.1:80", "meters.example:80"])
def test_beyond_this_machine_it_needs_a_token(address: str) -> None:
    """An empty one is none."""
    for environ in ({}, {"METER_DASHBOARD_TOKEN": ""}):
        result = run("--listen", address, **environ)
        assert result.exit_code == 1
        assert "set METER_DASHBOARD_TOKEN" in result.stderr


def test_a_token_that_can_be_guessed_is_refused() -> None:
    """And not shown."""
    result = run("--token", "hunter2")
    assert result.exit_code == 1
    assert "expected 16 or more" in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("address", ["9310", "localhost", "localhost:", ":9310", "localhost:70000", "x:-1"])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    """It says what was found."""
    result = run("--listen", address)
    assert result.exit_code == 2
    assert "expected an address such as 127.0.0.1:9310" in result.stderr


def test_it_needs_a_ledger(tmp_path: Path) -> None:
    """One that the policy names, or that it is told."""
    policy = tmp_path / "meter.yaml"
    policy.write_text(policy.read_text().replace("sinks: [sql]", "sinks: [stdout]"))
    result = run()
    assert result.exit_code == 1
    assert "found no sink of kind sql" in result.stderr
    assert "expected sqlite" in run("--ledger", "mysql://x/y").stderr


def test_it_serves_until_it_is_asked_to_end(tmp_path: Path) -> None:
    """A real server on a real port: with the token, and not without."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, **ENVIRON, "METER_DASHBOARD_TOKEN": TOKEN}
    environ.pop("METER_POLICY", None)
    command = [METER_MW, "dashboard", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        url = f"http://127.0.0.1:{port}/delivery"
        try:
            assert answered(url).status_code == 401
            served = httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"})
            assert (served.status_code, "server" in served.headers) == (200, False)
            assert "The journal is empty" in served.text
        finally:
            server.send_signal(signal.SIGTERM)
            _, said = server.communicate(timeout=60)
    assert said == f"orders-api: http://127.0.0.1:{port}/ (with the token)\n"


def answered(url: str) -> httpx.Response:
    """Ask until the server is there."""
    until = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url)
        except httpx.ConnectError:
            assert time.monotonic() < until
            time.sleep(0.05)
