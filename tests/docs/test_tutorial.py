"""The tutorial, from its first block to its last, in an empty folder, as a reader follows it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.lengthy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FENCES = len(re.findall(r"^```\w+$", PAGE, re.MULTILINE))
STEP = re.compile(r"(?:`([\w.]+)`[^\n]*:\n\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""A block, and the file that it is, where the line above it names one."""

PATIENCE_S = 30


class Reader:
    """Follows the tutorial in a folder: writes files, runs commands, and compares what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("METER_", "ACME", "GLOBEX"))
        }
        self.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.server: subprocess.Popen[bytes] | None = None
        self.command = ""
        self.answer: httpx.Response | None = None

    def write(self, name: str, text: str) -> None:
        """Write a file, in place of what it was."""
        self.finish()
        (self.folder / name).write_text(self._mine(text))

    def do(self, text: str) -> None:
        """Do what a block of commands says; the last one is run when its output is due."""
        self.finish()
        *lines, self.command = self._mine(text).splitlines()
        for line in lines:
            self._run(line)
        match shlex.split(self.command):
            case ["pip", "install", extras, *servers]:
                self.command = ""
                project = tomllib.loads((ROOT / "pyproject.toml").read_text())
                assert extras.strip(".[]") in project["project"]["optional-dependencies"]
                known = " ".join(map(str, project["dependency-groups"]["servers"]))
                assert all(each in known for each in servers)
            case ["uvicorn", *arguments]:
                self.command = ""
                self._serve(arguments)
            case ["curl", "-i", "-H", header, url]:
                self.command = ""
                name, _, value = header.partition(": ")
                self.answer = httpx.get(f"http://{url}", headers={name: value})

    def finish(self) -> None:
        """Run a command whose output the page does not show."""
        if self.command:
            self._run(self.command)
        self.command = ""

    def see(self, shown: str) -> None:
        """Compare with what the last command prints, as soon as usage of a moment ago has arrived."""
        end = time.monotonic() + (PATIENCE_S if self.command.startswith("meter-mw ") else 0)
        while self._plain(self._run(self.command)) != self._plain(shown):
            assert time.monotonic() < end, self._run(self.command)
        self.command = ""

    def hear(self, shown: str) -> None:
        """Compare with the last answer: its status, the fields that are shown, and its body."""
        assert self.answer is not None
        head, _, body = shown.partition("\n\n")
        status, *lines = head.splitlines()
        assert status == f"HTTP/1.1 {self.answer.status_code} {self.answer.reason_phrase}"
        for name, value in (line.split(": ", 1) for line in lines):
            assert _without_counts(value) == _without_counts(self.answer.headers[name])
        expected, told = json.loads(body), self.answer.json()
        assert expected == (told | {"instance": expected["instance"]} if "instance" in told else told)

    def leave(self) -> None:
        """Stop the server."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(timeout=PATIENCE_S)

    def _serve(self, arguments: list[str]) -> None:
        words = [sys.executable, "-m", "uvicorn", *arguments]
        self.server = subprocess.Popen(words, cwd=self.folder, env=self.environ)
        while True:
            assert self.server.poll() is None, "the app has not started"
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return

    def _run(self, line: str) -> str:
        """Run a line of shell, keep what it exports, and give what it prints."""
        kept = self.folder.with_name("environ")
        done = subprocess.run(
            ["sh", "-euc", f"{self._mine(line)}\nenv -0 > '{kept}'"],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        self.environ = dict(each.split("=", 1) for each in kept.read_text().split("\0") if each)
        return done.stdout

    def _mine(self, text: str) -> str:
        """Put the reader's own port and month in place of the page's."""
        return text.replace("8000", self.port).replace("2026-11", f"{datetime.now(UTC):%Y-%m}")

    def _plain(self, text: str) -> str:
        """Leave out where and when it was said."""
        return re.sub(r"\d{4}-\d\d(-\d\d)?", "DATE", text.replace(str(self.folder), "/home/you/shop"))


def _without_counts(field: str) -> str:
    return re.sub(r";([rt])=\d+", r";\1=", field)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Have somebody sit in an empty folder."""
    (tmp_path / "shop").mkdir()
    reader = Reader(tmp_path / "shop")
    yield reader
    reader.leave()


def test_the_tutorial_leads_to_its_invoice(reader: Reader) -> None:
    """Every file is written, every command run, and what the page shows is what it says."""
    steps = STEP.findall(PAGE)
    assert len(steps) == FENCES
    for name, language, text in steps:
        match language:
            case "python" | "yaml":
                reader.write(name, text)
            case "sh":
                reader.do(text)
            case "text":
                reader.see(text)
            case "http":
                reader.hear(text)
    reader.finish()
