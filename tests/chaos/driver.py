"""The chaos: clients press on workers while a seed decides what is killed, frozen, cut and rolled back.

Compared by id, not by totals: each response that a client had whole names its event; after the calm
that event must be at the backend, once, with as many bytes as the client had.
"""

from __future__ import annotations

import http.client
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.backend import MODES, Backend
from chaos.processes import ChaoticRedis, Process, Way, Worker
from meter_mw.meter import Meter
from meter_mw.policy.identity import Credential, pseudonym
from meter_mw.policy.loader import load
from meter_mw.reporting import Usage
from support.policies import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SECRET = "s" * 32
WORKERS = 3
CLIENTS = 6
CAP = 150
BYTES_CAP = 400_000
CALM = 90.0
"""Seconds after which everything has to have arrived and settled."""

_NEW_KEY_S = 2.0
_POLICY = """
version: 1
service: chaos
store: {store}
identity: {{secret: "${{METER_KEY_SECRET}}"}}
on_store_failure: {{rate: open, cap: closed, deadline: 300ms, recovery: learn}}
checkpoint: 1s
plans:
  default:
    limits:
      - {{name: calls, cap: {cap}/day}}
      - {{name: bytes, meter: egress, cap: {bytes_cap} B/day, reserve: 2 kB, on_exhausted: finish}}
      - {{concurrent: 50}}
events:
  journal: {home}/journal
  forwarder: daemon
  sinks: [{{http: "{backend}"}}, {{file: {home}/usage.jsonl}}]
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A response that a client had whole."""

    key: str
    bytes: int
    at: float


@dataclass(slots=True)
class Verdict:
    """What came of it. `lost`, `conflicts`, `wrong_bytes` and `drift` have to be empty."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    served: int = 0
    events: int = 0
    lost: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    repeats: int = 0
    unserved: int = 0
    wrong_bytes: list[str] = field(default_factory=list)
    drift: dict[str, str] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    calm_s: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether nothing was lost, nothing counted twice, and every counter tells the facts."""
        return not (self.lost or self.conflicts or self.wrong_bytes or self.drift or self.held)


class Chaos:
    """One run of `seconds`: `seed` decides the faults, `rolls_back` whether Redis may forget."""

    def __init__(self, seed: int, seconds: float, *, rolls_back: bool = True) -> None:
        self.verdict = Verdict(seed)
        self._seconds = seconds
        self._random = random.Random(seed)
        self._home = Path(tempfile.mkdtemp(prefix="meter-chaos-"))
        self._redis = ChaoticRedis()
        self._way = Way(self._redis.port)
        self._backend = Backend(seed)
        self._write_policy("meter.yaml", self._way.url)
        self._write_policy("direct.yaml", self._redis.url)
        environment = {"METER_POLICY": str(self._home / "meter.yaml"), "METER_KEY_SECRET": SECRET}
        self._workers = [
            Worker(number, environment, self._home / f"worker-{number}.log") for number in range(WORKERS)
        ]
        words = ("meter_mw", "forward", "--policy", str(self._home / "meter.yaml"))
        self._forwarder = Process("forwarder", words, environment, self._home / "forwarder.log")
        self._calm = threading.Event()
        self._lock = threading.Lock()
        self.served: dict[str, Served] = {}
        self._began = time.monotonic()
        self._rolls_back = rolls_back
        self.rolled_back: list[float] = []

    def _write_policy(self, name: str, store: str) -> None:
        text = _POLICY.format(
            store=store, home=self._home, backend=self._backend.url, cap=CAP, bytes_cap=BYTES_CAP
        )
        (self._home / name).write_text(text)

    # -- the run

    def run(self) -> Verdict:
        """Press, break, calm down, and compare."""
        for worker in self._workers:
            worker.wait(30)
        self._began = time.monotonic()
        clients = [
            threading.Thread(target=self._press, args=(number,), daemon=True) for number in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        self._break()
        self._calm.set()
        for each in clients:
            each.join(30)
        self._heal()
        self._settle()
        return self.verdict

    def close(self, *, keep: bool = False) -> None:
        """End everything, and remove the files unless they are to be looked at."""
        for each in (*self._workers, self._forwarder):
            each.kill()
        self._way.close()
        self._redis.stop()
        self._backend.close()
        if not keep:
            shutil.rmtree(self._home, ignore_errors=True)

    @property
    def home(self) -> Path:
        """Where the journal and the logs lie."""
        return self._home

    # -- the clients

    def _press(self, number: int) -> None:
        choose = random.Random(self.verdict.seed * 1_000 + number)
        while not self._calm.is_set():
            generation = int((time.monotonic() - self._began) / _NEW_KEY_S)
            key = f"k-{generation}-{choose.randrange(3)}"
            worker = choose.choice(self._workers)
            method, target, body = choose.choice(
                [
                    ("GET", "/v1/item", b""),
                    ("POST", "/v1/echo", b"e" * choose.randrange(1, 3_000)),
                    ("GET", f"/v1/stream?pieces={choose.randrange(1, 12)}", b""),
                ]
            )
            self._ask(worker.port, key, method, target, body)

    def _ask(self, port: int, key: str, method: str, target: str, body: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, target, body, {"X-API-Key": key, "Connection": "close"})
            answer = connection.getresponse()
            received = answer.read()
        except (OSError, http.client.HTTPException):
            with self._lock:
                self.verdict.broken += 1
            time.sleep(0.02)
            return
        finally:
            connection.close()
        with self._lock:
            self.verdict.statuses[answer.status] += 1
            if answer.status == 200:
                name = answer.headers["X-Event"]
                assert name not in self.served, "two responses have one event"
                self.served[name] = Served(key, len(received), time.monotonic())
        if answer.status != 200:
            time.sleep(0.01)

    # -- the faults

    def _break(self) -> None:
        end = self._began + self._seconds
        faults = self._faults()
        while time.monotonic() < end:
            time.sleep(self._random.uniform(0.2, 1.0))
            name, fault = self._random.choice(faults)
            self.verdict.faults[name] += 1
            fault()

    def _faults(self) -> list[tuple[str, Callable[[], None]]]:
        faults: list[tuple[str, Callable[[], None]]] = [
            ("kill -9 worker", self._kill_worker),
            ("kill -9 worker", self._kill_worker),
            ("kill -9 forwarder", self._kill_forwarder),
            ("kill -9 redis", self._redis.crash),
            ("SIGSTOP redis", lambda: self._frozen(self._redis)),
            ("SIGSTOP worker", lambda: self._frozen(self._random.choice(self._workers))),
            ("SIGSTOP forwarder", lambda: self._frozen(self._forwarder)),
            ("replies cut", self._cut),
            ("replies swallowed", lambda: self._for_a_while("swallow", True)),
            ("replies late", lambda: self._for_a_while("delay", self._random.uniform(0.05, 0.6))),
            ("commands twice", self._repeat),
            ("replies twice", self._double),
            ("backend", self._fail_backend),
            ("backend", self._fail_backend),
        ]
        if self._rolls_back:
            faults.append(("redis rolled back", self._roll_back))
        return faults

    def _kill_worker(self) -> None:
        worker = self._random.choice(self._workers)
        worker.kill()
        worker.start()

    def _kill_forwarder(self) -> None:
        self._forwarder.kill()
        self._forwarder.start()

    def _frozen(self, process: Process | ChaoticRedis) -> None:
        process.freeze()
        time.sleep(self._random.uniform(0.1, 1.0))
        process.thaw()

    def _cut(self) -> None:
        self._way.cut_replies = self._random.randrange(1, 10)

    def _double(self) -> None:
        self._way.double_replies = self._random.randrange(1, 10)

    def _for_a_while(self, what: str, value: float) -> None:
        before = getattr(self._way, what)
        setattr(self._way, what, value)
        time.sleep(self._random.uniform(0.1, 0.6))
        setattr(self._way, what, before)

    def _repeat(self) -> None:
        self._way.repeats = True
        self._way.cut_all()
        time.sleep(self._random.uniform(0.3, 1.0))
        self._way.repeats = False

    def _roll_back(self) -> None:
        self._redis.copy()
        time.sleep(self._random.uniform(0.2, 1.2))
        self._redis.roll_back()
        self.rolled_back.append(time.monotonic())

    def _fail_backend(self) -> None:
        self._backend.mode = self._random.choice(MODES)

    # -- the calm

    def _heal(self) -> None:
        self._backend.mode = "well"
        self._way.cut_replies = self._way.double_replies = 0
        for worker in self._workers:
            worker.start()
            worker.wait(30)
        self._forwarder.start()

    def _settle(self) -> None:
        """Wait until nothing is amiss any more, or the patience is over, and note what is."""
        began = time.monotonic()
        meter = Meter(load(self._home / "direct.yaml", {"METER_KEY_SECRET": SECRET}))
        try:
            while True:
                self._compare(meter)
                self.verdict.calm_s = time.monotonic() - began
                if self.verdict.whole or self.verdict.calm_s > CALM:
                    return
                time.sleep(0.5)
        finally:
            meter.close()

    def _compare(self, meter: Meter) -> None:
        events = dict(self._backend.events)
        verdict = self.verdict
        verdict.served, verdict.events = len(self.served), len(events)
        verdict.conflicts = list(self._backend.conflicts)
        verdict.repeats = self._backend.sent.total() - len(events)
        verdict.lost = [name for name in self.served if name not in events]
        verdict.unserved = sum(name not in self.served for name in events)
        verdict.wrong_bytes = [
            name
            for name, served in self.served.items()
            if name in events and events[name]["data"]["response_bytes"] != served.bytes
        ]
        with self._redis.client() as client:
            verdict.held = [key.decode() for key in client.scan_iter("mw:*:h")]
        facts = self._facts(events.values())
        verdict.drift = dict(self._drift(meter, facts))
        counts = Counter(served.key for served in self.served.values())
        verdict.over = {key: count - CAP for key, count in counts.items() if count > CAP}

    def _facts(self, events: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
        facts: dict[str, Counter[str]] = {}
        for event in events:
            of_subject = facts.setdefault(event["subject"], Counter())
            of_subject["calls"] += event["data"]["requests"]
            of_subject["bytes"] += event["data"]["response_bytes"]
        return facts

    def _drift(self, meter: Meter, facts: dict[str, Counter[str]]) -> Iterator[tuple[str, str]]:
        """Give the keys whose counters are not the sum of their events."""
        for key in sorted({served.key for served in self.served.values()}):
            usage = meter.usage(request(key=key))
            if not isinstance(usage, Usage):
                yield key, "the store does not say"
                continue
            counted = {each.standing.line.limit.name: each.standing.used for each in usage.limits}
            known = facts.get(pseudonym(SECRET.encode(), Credential(key)), Counter[str]())
            for name in ("calls", "bytes"):
                if counted[name] != known[name]:
                    yield f"{key} {name}", f"counted {counted[name]}, recorded {known[name]}"
