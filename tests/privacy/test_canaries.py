"""Whatever a client sends, nothing of it is found where the meter writes: disks, Redis, backends, logs."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from werkzeug.test import Client

from meter_mw import current
from meter_mw.journal import Entry, read_journal
from meter_mw.meter import Meter
from meter_mw.policy.problems import PolicyError
from meter_mw.wsgi import MeterMiddleware
from support.fakes.vendor import Asked, Said, Vendor
from support.policies import request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from support.servers import RedisServer

CANARY = "canary7f3a"
SEEN = "203.0.113"
PROXY = {"REMOTE_ADDR": "127.0.0.1"}


class Receiver(Vendor):
    """A backend that takes every event."""

    def answer(self, asked: Asked, fault: str | None) -> Said:
        return Said(204)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read all of the request, report units, and say it all again in the response."""
    body = environ["wsgi.input"].read()
    exchange = current()
    exchange.add("tokens", 3)
    with pytest.raises(ValueError, match="tokens"):
        exchange.add(f"{CANARY}_meter", 1)
    start_response("200 OK", [("X-Echo", CANARY), ("X-Tokens", CANARY)])
    return [body, environ["PATH_INFO"].encode(), CANARY.encode()]


def ask_in_every_way(client: Client) -> None:
    """Send the canary wherever a client can put one."""
    headers = {
        "X-API-Key": f"mk_{CANARY}",
        "User-Agent": f"{CANARY}/1.0 (jane@example.com)",
        "Referer": f"https://{CANARY}.example/",
        "Cookie": f"session={CANARY}",
        "X-Forwarded-For": f"{SEEN}.77",
        "X-Request-Id": CANARY,
        "Traceparent": CANARY,
    }
    for method in ("POST", "PUT", CANARY.upper()):
        path = f"/v1/users/{CANARY}/files/{CANARY}.txt"
        query = f"q={CANARY}&api_key={CANARY}"
        with client.open(
            path,
            method=method,
            query_string=query,
            headers=headers,
            data=f"{CANARY} {method}",
            environ_base=PROXY,
        ) as answer:
            assert CANARY in answer.get_data(as_text=True)
    for path in (f"/{CANARY}", f"/v1/../{CANARY}", f"//{CANARY}"):
        client.open(path, headers=headers, environ_base=PROXY).close()


def policy_of(folder: Path, redis_url: str, receiver: Receiver) -> dict[str, object]:
    return {
        "version": 1,
        "service": "shop",
        "store": redis_url,
        "identity": {"secret": "s" * 32, "trusted_proxies": ["127.0.0.0/8"]},
        "meters": {"requests": {"count": "requests"}, "tokens": {"count": "reported"}},
        "routes": [
            {"path": "/v1/users/{name}/files/{file}", "name": "files"},
            {"path": "/{rest:path}", "name": "other"},
        ],
        "plans": {"default": {"limits": [{"cap": "1000/month", "warn": [1]}, {"concurrent": 8}]}},
        "on_store_failure": {"deadline": "5s"},
        "events": {
            "journal": str(folder / "journal"),
            "privacy": {"ip": "truncated", "user_agent": "family"},
            "sinks": [
                {"file": str(folder / "usage.jsonl")},
                {"sql": f"sqlite:///{folder}/ledger.db"},
                {"redis_stream": redis_url},
                {"http": receiver.url},
            ],
        },
    }


def test_no_canary_is_found(
    tmp_path: Path,
    redis_url: str,
    redis_server: RedisServer,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of the address and the user agent there is what the policy asks for, and no more."""
    caplog.set_level(logging.DEBUG)
    edge = MeterMiddleware(app, policy=policy_of(tmp_path, redis_url, receiver))
    ask_in_every_way(Client(edge))
    assert edge.meter.flush(20)
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    edge.meter.close()
    with redis_server.client() as redis:
        kept = {key: bytes(key) + redis.dump(key) for key in redis.scan_iter()}
    sent = [repr(each.headers).encode() + each.body for each in receiver.posts]
    assert kept
    assert sent
    for place, text in (*written.items(), *kept.items(), *enumerate(sent), ("log", caplog.text.encode())):
        assert CANARY.encode() not in text.lower(), place
        assert b"jane@example" not in text, place
        assert f"{SEEN}.77".encode() not in text, place
    events = b"".join(each.payload for each in read_journal(tmp_path / "journal") if isinstance(each, Entry))
    for said in (
        b'"ip":"203.0.113.0/24"',
        b'"user_agent":"other"',
        b'"tokens":3',
        b'"route":"files"',
        b'"OTHER"',
    ):
        assert said in events


def test_a_backend_sees_the_same_event(tmp_path: Path, redis_url: str, receiver: Receiver) -> None:
    """The search would find a canary: what is recorded is in every place that it looks into."""
    edge = MeterMiddleware(app, policy=policy_of(tmp_path, redis_url, receiver))
    ask_in_every_way(Client(edge))
    assert edge.meter.flush(20)
    assert b'"ip":"203.0.113.0/24"' in b"".join(each.body for each in receiver.posts)
    places = [
        path for path in tmp_path.rglob("*") if path.is_file() and b"203.0.113.0/24" in path.read_bytes()
    ]
    assert {"usage.jsonl"} < {path.name for path in places}
    edge.meter.close()


def test_a_request_with_nothing_to_remark_tells_of_its_client_too(tmp_path: Path) -> None:
    """Whether the store was asked for it or not; and none does where the policy does not ask."""
    limits = {"default": {"limits": [{"rate": "1000/second"}]}}
    said: dict[str, object] = {
        "version": 1,
        "service": "shop",
        "identity": {"secret": "s" * 32},
        "plans": limits,
    }
    for asks in ({"ip": "truncated", "user_agent": "family"}, {}):
        folder = tmp_path / str(len(asks))
        meter = Meter(said | {"events": {"journal": str(folder), "privacy": asks}})
        for _ in range(5):
            asked = request(key="k", peer=f"{SEEN}.77", user_agent="curl/8")
            exchange = meter.exchange(meter.admit(asked), "GET")
            exchange.begin(200, None)
            meter.conclude(exchange)
        meter.close()
        events = [json.loads(each.payload) for each in read_journal(folder) if isinstance(each, Entry)]
        told = [(each["data"].get("ip"), each["data"].get("user_agent")) for each in events]
        assert told == [(f"{SEEN}.0/24", "curl") if asks else (None, None)] * 5


def test_a_policy_asks_for_no_more_than_that(tmp_path: Path, redis_url: str, receiver: Receiver) -> None:
    rules = policy_of(tmp_path, redis_url, receiver)
    rules["events"] = {"privacy": {"ip": "full"}}
    with pytest.raises(PolicyError, match="expected none or truncated"):
        MeterMiddleware(app, policy=rules).meter  # noqa: B018 - the policy is read when it is first needed
