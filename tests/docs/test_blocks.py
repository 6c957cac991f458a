"""Every fenced block of the documentation is run, parsed or compared with what the meter really says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from werkzeug.test import Client

from meter_mw import load
from meter_mw.cli.dashboard import dashboard
from meter_mw.meter import open_sinks
from meter_mw.model import WINDOW_EVENT
from meter_mw.sinks.windows.records import Window
from support.ledgers import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("policy.md", "prices.md", "tutorial.md", "how-to.md")
"""Pages whose blocks have tests of their own."""

PAGES = sorted(
    page
    for page in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    )
    if page.name not in ELSEWHERE
)
METER_MW = Path(sys.executable).with_name("meter-mw")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WHOLE = "version: 1\nservice: docs\nidentity: {secret: '${METER_KEY_SECRET}'}\n"
PRICED = (
    WHOLE
    + """
keys: [{key: "${ACME_KEY}", subject: acme, plan: pro}]
plans: {pro: {price: {base: 49.00, currency: USD, charges: [{meter: requests, unit: 0.10}]}}}
events: {sinks: [sql]}
"""
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it stands."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.language}:{self.text.splitlines()[0][:40]}"


BLOCKS = [Block(page, *match.groups()) for page in PAGES for match in FENCE.finditer(page.read_text())]


def blocks(language: str) -> list[Block]:
    """Give the blocks in one language."""
    return [each for each in BLOCKS if each.language == language]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder with the README's policy, as a newcomer would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "k" * 32)
    monkeypatch.setenv("ACME_KEY", "acme-try-me")
    monkeypatch.setenv("HOOK_SECRET", "h" * 32)
    monkeypatch.setenv("KAFKA_PASSWORD", "k" * 32)
    monkeypatch.setenv("NATS_TOKEN", "n" * 32)
    monkeypatch.setenv("STRIPE_KEY", "sk_" + "s" * 32)
    monkeypatch.setenv("OPENMETER_TOKEN", "om_" + "o" * 32)
    monkeypatch.setenv("LAGO_KEY", "l" * 36)
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "c" * 32)
    (tmp_path / "meter.yaml").write_text(blocks("yaml")[0].text)


def test_every_block_is_in_a_language_that_is_checked_here() -> None:
    """No block stands outside of these tests; usage has others for its JSON, and the sinks for their SQL."""
    assert {each.language for each in BLOCKS} <= {"python", "yaml", "json", "http", "sh", "sql"}
    assert {each.page.name for each in blocks("json") if "specversion" not in each.text} == {"usage.md"}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_policy(block: Block) -> None:
    """A block of YAML loads, by itself or as a part of a policy."""
    text = block.text if "version:" in block.text else WHOLE + block.text
    Path("block.yaml").write_text(text)
    assert load("block.yaml").plans


@pytest.mark.parametrize("block", [each for each in blocks("json") if "specversion" in each.text], ids=str)
def test_json_is_the_event_that_is_sent(block: Block) -> None:
    """An event in the documentation has the members of a real one, in their order."""
    shown = json.loads(block.text)
    real = _record() if shown["type"] == WINDOW_EVENT else _event()
    assert list(real) == list(shown)
    assert list(real["data"]) == list(shown["data"])


def _record() -> dict[str, dict[str, object]]:
    sums = {"requests": 812, "response_bytes": 104857}
    window = Window(42, "acme", 0, 3_600_000_000, 0, events=812, sums=sums)
    record: dict[str, dict[str, object]] = json.loads(window.record("urn:meter-mw:docs", "8c1f0a7e"))
    return record


def _event() -> dict[str, dict[str, object]]:
    namespace = _run(blocks("python")[0].text)
    assert _get(namespace["app"]).status_code == 200
    sent, end = Path("var/meter/usage.jsonl"), time.monotonic() + 5
    while not sent.exists() or not sent.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    return dict(json.loads(sent.read_text()))


def _get(app: object) -> httpx.Response:
    """Ask an ASGI app, in this process, for an item."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.get("/v1/items/7", headers={"X-API-Key": "k"})

    return asyncio.run(ask())


def _run(source: str, **names: object) -> dict[str, object]:
    namespace: dict[str, object] = {"__name__": "block", **names}
    exec(compile(source, "block", "exec"), namespace)
    return namespace


def _lines(text: str) -> Iterator[str]:
    return (line for line in (raw.partition("#")[0].strip() for raw in text.splitlines()) if line)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs_and_serves(block: Block) -> None:
    """A block of Python runs, and an app in it answers a metered request."""

    async def bare(scope: object, receive: object, send: object) -> None:
        """Stand in for the reader's own app."""

    namespace = _run(block.text, app=bare)
    app = namespace["app"]
    if "FastAPI" in namespace:
        answer = _get(app)
        assert (200, {"id": 7}) == (answer.status_code, answer.json())
        assert "ratelimit" in answer.headers
    elif "Flask" in namespace:
        with Client(app).get("/v1/items/7", headers={"X-API-Key": "k"}) as response:
            assert (200, {"id": 7}) == (response.status_code, response.json)
            assert "RateLimit" in response.headers


@pytest.mark.parametrize("block", blocks("http"), ids=str)
def test_http_is_what_the_client_sees(block: Block) -> None:
    """An answer in the documentation has the status, fields and members of a real one."""
    head, _, body = block.text.partition("\n\n")
    status_line, *lines = head.splitlines()
    fields = dict(line.split(": ", 1) for line in lines)
    namespace = _run(blocks("python")[0].text)
    for _ in range(1000):
        answer = _get(namespace["app"])
        if status_line.split()[1] == str(answer.status_code):
            break
    assert status_line == f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"
    real = {name.lower(): value for name, value in answer.headers.items()}
    assert {name.lower() for name in fields} <= real.keys()
    assert fields["RateLimit-Policy"] == real["ratelimit-policy"]
    assert _names(fields["RateLimit"]) == _names(real["ratelimit"])
    if body:
        shown, told = json.loads(body), answer.json()
        assert told | {"instance": ""} == shown | {"instance": ""}


def _names(field: str) -> list[str]:
    return re.findall(r'"([^"]+)"', field)


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_shell_commands_are_there(block: Block) -> None:
    """A command in the documentation exists: a target, an extra, an app, or a command of ours that runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for line in _lines(block.text):
        command = shlex.split(line)
        match command:
            case ["make", target]:
                subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
            case ["pip", "install", project_folder, *_]:
                folder, _, extras = project_folder.rstrip("]").partition("[")
                assert (block.page.parent / folder / "pyproject.toml").samefile(ROOT / "pyproject.toml")
                known = project["project"]["optional-dependencies"]
                assert all(each in known for each in extras.split(",") if extras)
            case ["export", *_]:
                subprocess.run(["sh", "-euc", f"{line}; test ${{#METER_KEY_SECRET}} = 64"], check=True)
            case ["uvicorn" | "gunicorn", target, *_]:
                module, _, name = target.partition(":")
                source = (block.page.parent / f"{module}.py").read_text()
                assert re.search(rf"^{name} = ", source, re.MULTILINE)
            case [
                "meter-mw",
                "usage" | "top" | "features" | "signals" | "invoice" | "price" as name,
                *arguments,
            ]:
                for policy in ("meter.yaml", "new.yaml"):
                    Path(policy).write_text(PRICED)
                (ledger,) = open_sinks(load("meter.yaml"))
                Path("var/meter").mkdir(parents=True, exist_ok=True)
                ledger.send([usage(1, source="urn:meter-mw:docs")])
                ledger.close()
                subprocess.run([METER_MW, name, *arguments], check=True, capture_output=True)
            case ["meter-mw", "dashboard", *arguments]:  # which serves until it is interrupted
                dashboard.make_context("dashboard", arguments)
            case ["meter-mw", *arguments]:
                subprocess.run([METER_MW, *arguments], check=True, capture_output=True)
            case _:
                pytest.fail(f"no rule for {line!r}")
