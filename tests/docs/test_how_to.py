"""docs/how-to.md: each policy loads, each command does its task in a real shop, and each link leads on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from click.testing import CliRunner
from werkzeug.test import Client

from meter_mw import current, load
from meter_mw.cli import main
from meter_mw.journal.parked import park
from meter_mw.meter import open_sinks
from meter_mw.policy.identity import Credential, pseudonym
from meter_mw.wsgi import MeterMiddleware
from support.ledgers import usage
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

METER_MW = Path(sys.executable).with_name("meter-mw")
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "how-to.md").read_text()
POLICIES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SECTIONS = {
    title: re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
LINKS = sorted(set(re.findall(r"\]\(([^)]*)\)", PAGE)))
HEAD = "version: 1\nservice: docs\n"
SECRET = "k" * 32
NAMES = (
    "ACME_KEY",
    "ACME_OTHER_KEY",
    "HOOK_SECRET",
    "NEW_HOOK_SECRET",
    "NEW_KEY_SECRET",
    "SEAL_SECRET",
    "STRIPE_KEY",
)
FINDINGS = {"meter-mw check --store": "appendonly is no, expected yes"}
"""What is to be found in the shop, whose Redis keeps nothing."""

OCTOBER_US = int(datetime(2026, 10, 15, tzinfo=UTC).timestamp()) * 1_000_000
POLICY = """
version: 1
service: docs
store: {redis}
on_store_failure: {{deadline: 5s}}
keys: {{redis: true, file: keys.yaml}}
plans:
  pro:
    limits: [{{cap: 1000000/month}}]
    price: {{base: 49.00, currency: USD, charges: [{{meter: requests, unit: 0.10}}]}}
events:
  seal: {{secret: "${{SEAL_SECRET}}"}}
  sinks: [sql, {{file: usage.jsonl}}]
"""


@pytest.fixture(autouse=True)
def _environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, with every variable that the page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])  # which the commands add to
    monkeypatch.setenv("METER_KEY_SECRET", SECRET)
    for name in NAMES:
        monkeypatch.setenv(name, f"sk_{name}_for_this_page_alone")


def test_every_block_is_checked_here() -> None:
    assert len(re.findall(r"^```\w+$", PAGE, re.MULTILINE)) == len(POLICIES) + sum(
        map(len, SECTIONS.values())
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_loads(policy: str) -> None:
    Path("meter.yaml").write_text(policy if "version:" in policy else HEAD + policy)
    assert load("meter.yaml").plans


@pytest.mark.parametrize("link", LINKS)
def test_each_link_leads_to_its_heading(link: str) -> None:
    name, _, anchor = link.partition("#")
    headings = re.findall(r"^#+ (.*)$", (DOCS / name).read_text(), re.MULTILINE)
    assert anchor in {"", *map(_anchor, headings)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# -- commands


@dataclass(frozen=True)
class Shop:
    """A service that has served a customer, whose key has an id, and the event of one of its requests."""

    key: str
    event: str

    def does(self, line: str) -> None:
        """Run a command as the page has it, for this key and this event."""
        words = shlex.split(line, comments=True)
        mine = {"ID": self.key, "EVENT": self.event}
        program, *arguments = [mine.get(word, word) for word in words]
        assert program == "meter-mw"
        if "dashboard" in arguments:
            self.shows(arguments)
            return
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        if line in FINDINGS:
            assert result.exit_code == 1
            assert FINDINGS[line] in result.stderr
        else:
            assert result.exit_code == 0, f"{line}\n{result.output}"

    def shows(self, arguments: list[str]) -> None:
        """Start what serves until it is interrupted, and look at its first page."""
        address = f"127.0.0.1:{free_port()}"
        words = [METER_MW, *(address if ":" in word else word for word in arguments)]
        server = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        try:
            while True:
                assert server.poll() is None, "it has ended"
                try:
                    answer = httpx.get(f"http://{address}/")
                except httpx.TransportError:
                    time.sleep(0.05)
                else:
                    break
        finally:
            server.terminate()
            server.wait(timeout=30)
        assert answer.status_code == 200
        assert "acme" in answer.text


@pytest.fixture
def shop(redis_url: str) -> Shop:
    """Have three requests of acme counted today, and one in October, and one of globex parked."""
    Path("meter.yaml").write_text(POLICY.format(redis=redis_url))
    Path("keys.yaml").write_text('[{key: "${ACME_OTHER_KEY}", subject: initech, plan: pro}]')
    Path("new.yaml").write_text(POLICY.format(redis=redis_url).replace("49.00", "39.00"))
    made = CliRunner().invoke(main, ["keys", "create", "acme", "--plan", "pro"])
    key = made.stdout.strip()
    middleware = MeterMiddleware(_app, policy="meter.yaml")
    client = Client(middleware)
    (*_, event) = [client.get("/v1/items", headers={"X-API-Key": key}).text for _ in range(3)]
    assert middleware.meter.flush(30)
    middleware.meter.close()
    policy = load("meter.yaml")
    ledger, file = open_sinks(policy)
    ledger.send([usage(1, source=policy.source, time_us=OCTOBER_US, plan="pro")])
    ledger.close()
    park(policy.events.journal, file.name, "refused", usage(2, source=policy.source, subject="globex"))
    file.close()
    return Shop(pseudonym(SECRET.encode(), Credential(key))[3:15], event)


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(current().id).encode()]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_command_does_its_task(section: str, shop: Shop) -> None:
    """One shop follows all recipes of a section, from the first to the last."""
    for commands in SECTIONS[section]:
        for line in commands.splitlines():
            shop.does(line)
