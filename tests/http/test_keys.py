"""Keys of the registry on real servers: they work at once, end within seconds, and share their counts."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fleet.fleet import GUNICORN, UVICORN, ask, policy_file, press, serving
from meter_mw.cli import main
from meter_mw.journal.estates import estate_paths, owner_of
from meter_mw.policy.identity import Credential, pseudonym

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.servers import RedisServer

pytestmark = pytest.mark.lengthy

SECRET = "s" * 32  # that of the fleet
SERVERS = {
    "uvicorn": (*UVICORN, "--workers", "2"),
    "gunicorn": (*GUNICORN, "--workers", "2", "--threads", "4"),
}
GUESSES = 3000

on_every_server = pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)


def registry(folder: Path, store: str, cap: int = 100_000, **identity: str) -> Path:
    """Write a policy whose keys are in Redis."""
    more = "".join(f", {name}: {word}" for name, word in identity.items())
    path = policy_file(folder, store, f"[{{cap: {cap}/year}}]", "keys: {redis: true}")
    path.write_text(path.read_text().replace('"${METER_KEY_SECRET}"', f'"${{METER_KEY_SECRET}}"{more}'))
    return path


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give the command, as the operator calls it beside the servers."""
    monkeypatch.setattr("sys.path", ["somewhere"])

    def call(*words: str) -> str:
        environ = {"METER_KEY_SECRET": SECRET, "METER_POLICY": str(tmp_path / "meter.yaml")}
        result = CliRunner().invoke(main, ["keys", *words], env=environ)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    return call


def id_of(key: str) -> str:
    return pseudonym(SECRET.encode(), Credential(key))[3:15]


def statuses(port: int, key: str, requests: int, clients: int = 20) -> Counter[int]:
    return asyncio.run(press([port], key, clients=clients, requests=requests))


def served(folder: Path) -> set[int]:
    """Give the processes that have recorded a request."""
    return {owner_of(path) for path in estate_paths(folder / "journal")}


@pytest.mark.timed
@on_every_server
def test_a_key_works_at_once_and_is_refused_by_all_workers_within_three_seconds_of_its_end(
    server: tuple[str, ...], redis_url: str, tmp_path: Path, keys: Callable[..., str]
) -> None:
    """Each worker asks for itself, and believes what it hears for two seconds."""
    with serving(server, registry(tmp_path, redis_url, anonymous="reject")) as port:
        key = keys("create", "acme")
        assert asyncio.run(ask(port, key)) == 200
        end = time.monotonic() + 20
        while len(served(tmp_path)) < 2:
            assert statuses(port, key, 100) == {200: 100}
            assert time.monotonic() < end
        assert statuses(port, key, 100) == {200: 100}
        keys("revoke", id_of(key))
        began = revoked = time.monotonic()
        while set(statuses(port, key, 50)) != {401}:
            assert began - revoked < 3
            began = time.monotonic()
        assert statuses(port, key, 500) == {401: 500}


@on_every_server
def test_a_key_that_takes_over_goes_on_with_the_count(
    server: tuple[str, ...], redis_url: str, tmp_path: Path, keys: Callable[..., str]
) -> None:
    """Ten of a cap are ten for both keys together, during the overlap."""
    with serving(server, registry(tmp_path, redis_url, cap=10)) as port:
        old = keys("create", "acme")
        assert statuses(port, old, 6) == {200: 6}
        new = keys("rotate", id_of(old), "--overlap", "1h")
        assert asyncio.run(ask(port, old)) == 200
        assert statuses(port, new, 10) == {200: 3, 429: 7}
        assert asyncio.run(ask(port, old)) == 429
        keys("override", id_of(new), "requests-year", "--cap", "12", "--until", "2099-01-01")
        time.sleep(2)  # what workers believe of a key until they ask again
        assert statuses(port, old, 5) + statuses(port, new, 5) == {200: 2, 429: 8}
        gone = keys("rotate", id_of(new), "--overlap", "0s")
        time.sleep(2)
        assert asyncio.run(ask(port, new)) == 401
        assert asyncio.run(ask(port, gone)) == 429


def test_a_key_that_has_ended_is_no_unknown_key(
    redis_url: str, tmp_path: Path, keys: Callable[..., str]
) -> None:
    """Where unknown keys are served, a revoked one is refused all the same."""
    with serving(UVICORN, registry(tmp_path, redis_url, unknown="accept")) as port:
        key = keys("create", "acme")
        keys("revoke", id_of(key))
        assert asyncio.run(ask(port, key)) == 401
        assert asyncio.run(ask(port, "sk_unknown")) == 200


@pytest.mark.parametrize(("unknown", "status", "subjects"), [("reject", 401, 0), ("pool", 200, 1)])
def test_guesses_leave_at_most_one_subject_behind(
    unknown: str, status: int, subjects: int, redis_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Thousands of keys that are made up are refused, or are one subject."""
    with serving(SERVERS["uvicorn"], registry(tmp_path, redis_url, unknown=unknown)) as port:

        async def guess() -> Counter[int]:
            numbers = iter(range(GUESSES))

            async def client() -> list[int]:
                return [await ask(port, secrets.token_hex(16)) for _ in numbers]

            return Counter(
                each for some in await asyncio.gather(*(client() for _ in range(20))) for each in some
            )

        with redis_server.client() as client:
            before = int(client.info("memory")["used_memory"])
            assert asyncio.run(guess()) == {status: GUESSES}
            names = {name.split(b"}")[0] for name in client.scan_iter()} - {b"mw:{canary"}
            assert len(names) == subjects, names
            assert int(client.info("memory")["used_memory"]) - before < 1_000_000
    events = (
        [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()] if subjects else []
    )
    assert {event["subject"] for event in events} <= {"unknown_keys"}
