"""What of a store's settings loses counts is found, at real servers and in what others would say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.meter import Meter
from meter_mw.policy.problems import PolicyError
from meter_mw.stores.checking import findings
from meter_mw.stores.port import StoreUnavailable
from meter_mw.stores.redis_store import open_store
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.servers import RedisServer

GOOD = {
    "redis_version": "7.4.6",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "role": "master",
    "cluster_enabled": "0",
}


class Said:
    """A store of one server that says what it is told to."""

    def __init__(self, fields: dict[str, str], cluster: bytes | Exception = b"") -> None:
        self.replies = ["\r\n".join(f"{name}:{value}" for name, value in fields.items()).encode(), cluster]

    def told(self, calls, *, patience_us: int):
        return {"h:1": self.replies}


def test_nothing_is_wrong_with_a_good_one() -> None:
    """A master that evicts nothing, writes its AOF and is new enough is fine."""
    assert findings(Said(GOOD)) == []
    assert findings(Said(GOOD | {"cluster_enabled": "1"}, b"cluster_state:ok\r\n")) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"maxmemory": "100", "maxmemory_policy": "allkeys-lru"},
            "h:1: maxmemory-policy is allkeys-lru, expected noeviction",
        ),
        ({"aof_enabled": "0"}, "appendonly is no, expected yes"),
        ({"aof_last_write_status": "err"}, "aof_last_write_status is err, expected ok"),
        ({"role": "slave"}, "role is slave, expected master"),
        ({"redis_version": "6.0.16"}, "redis is 6.0.16, expected 6.2 or newer"),
        ({"redis_version": "6.2.19"}, "redis is 6.2.19, expected 6.2.20 or newer"),
        ({"redis_version": "7.0.15"}, "redis is 7.0.15, expected 7.2.11 or newer"),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.5"}, "valkey is 8.0.5, expected 8.0.6 or newer"),
    ],
)
def test_each_finding_says_what_was_found_and_what_is_expected(fields: dict[str, str], words: str) -> None:
    """One setting that loses counts is one finding."""
    (finding,) = findings(Said(GOOD | fields))
    assert words in finding


@pytest.mark.parametrize(
    "fields", [{"redis_version": "8.4.0"}, {"redis_version": "7.2.4", "valkey_version": "8.1.4"}]
)
def test_versions_that_are_mended(fields: dict[str, str]) -> None:
    """What is newer than all that is known, or mended, is fine; a policy without a bound evicts nothing."""
    assert findings(Said(GOOD | fields | {"maxmemory_policy": "allkeys-lru"})) == []


def test_a_cluster_that_does_not_serve() -> None:
    """The state of a cluster is looked at too."""
    (finding,) = findings(Said(GOOD | {"cluster_enabled": "1"}, b"cluster_state:fail\r\n"))
    assert "cluster_state is 'fail', expected 'ok'" in finding


def test_who_may_not_ask_is_told_what_to_allow() -> None:
    """An access list without INFO is a finding of its own."""
    said = Said(GOOD)
    said.replies[0] = StoreUnavailable("NOPERM this user has no permissions to run the 'info' command")
    (finding,) = findings(said)
    assert "+info" in finding


def test_16_a_server_that_evicts_is_refused(start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    """With `store_check: refuse` a meter does not start on it; by default the log says so."""
    server = start_redis("maxmemory 100mb", "maxmemory-policy allkeys-lru")
    rules = {
        "version": 1,
        "service": "s",
        "store": server.url,
        "store_check": "refuse",
        "identity": {"secret": "s" * 32},
        "plans": {"default": {"limits": [{"cap": "10/day"}]}},
        "events": {"journal": str(tmp_path / "journal")},
    }
    with pytest.raises(PolicyError) as refusal:
        Meter(rules)
    text = str(refusal.value)
    assert f"127.0.0.1:{server.port}: maxmemory-policy is allkeys-lru, expected noeviction" in text
    assert "appendonly is no" in text  # fault 7


def test_a_store_that_is_away_is_refused() -> None:
    """What cannot be asked cannot be trusted."""
    store = open_store(f"redis://127.0.0.1:{free_port()}/0")
    (finding,) = findings(store)
    assert "cannot be asked" in finding


def test_the_command_line_says_it(start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    """`meter-mw check --store` names what is wrong, and fails."""
    server = start_redis("maxmemory 100mb", "maxmemory-policy volatile-ttl")
    path = tmp_path / "meter.yaml"
    path.write_text(
        f'version: 1\nservice: s\nstore: {server.url}\nidentity: {{secret: "${{SECRET}}"}}\n'
        "plans: {default: {limits: [{cap: 10/day}]}}\nevents: {journal: journal}\n"
    )
    runner = CliRunner(env={"SECRET": "s" * 32})
    plain = runner.invoke(main, ["check", str(path)])
    asked = runner.invoke(main, ["check", "--store", str(path)])
    assert plain.exit_code == 0, plain.output
    assert asked.exit_code == 1
    assert "maxmemory-policy is volatile-ttl" in asked.output
