"""Every scenario through every edge, on a real server, down to the last field of its events."""

from __future__ import annotations

import re
import socket
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import wire
from scenarios import PREFLIGHT, SCENARIOS

from meter_mw.policy.identity import Credential, pseudonym
from servers import EDGES, SECRET, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steps import Scenario, Step
    from wire import Answer

    from servers import Server

AT_ONCE = 6
"""Scenarios that run together."""

ON_TIME = 0.1
"""Seconds beyond its pauses that a run takes where the machine is not late; no rate refills in them."""

TAKES = 6
"""How often a run is taken that fails, and was late each time."""

SHARED = ("perroute", "everyone")
"""Plans whose units are spent for whoever comes again."""

CASES = [
    pytest.param(edge, scenario, id=f"{edge}-{scenario.name}")
    for scenario in SCENARIOS
    for edge in scenario.edges
]


@pytest.fixture(scope="module")
def counts() -> Iterator[list[tuple[Server, str, str, int]]]:
    """Collect what each scenario recorded, and see at the end that nothing was added to it."""
    collected: list[tuple[Server, str, str, int]] = []
    yield collected
    for server, variant, subject, count in collected:
        assert sum(event["subject"] == subject for event in server.events(variant, subject)) == count


class Run:
    """One scenario at one server: what was answered to its steps, by whose they were."""

    def __init__(self, server: Server, scenario: Scenario) -> None:
        self.server = server
        self.scenario = scenario
        self.name = f"s-{uuid.uuid4().hex}"
        self.recorded: dict[str, list[tuple[Step, Answer]]] = {}
        self.began = datetime.now(UTC)
        self._start = time.monotonic()
        self._meant = 0.0
        self._wait = "0"

    @property
    def late(self) -> float:
        """The seconds that it has taken beyond its pauses and those of the server."""
        return time.monotonic() - self._start - self._meant

    def key(self, step: Step) -> str:
        plan = self.scenario.plan
        return step.key.format(plan=plan, name=self.name) if plan else self.name

    def subject(self, step: Step) -> str:
        if self.scenario.plan:
            return self.key(step).split(".")[1]
        return pseudonym(SECRET.encode(), Credential(self.key(step)))

    def take_all(self) -> Run:
        for step in self.scenario.steps:
            self.take(step)
        self.ended = datetime.now(UTC)
        return self

    def take(self, step: Step) -> None:
        """Send a request, and check what comes back."""
        pause = step.pause + (int(self._wait) if step.after_wait else 0)
        time.sleep(pause)
        self._meant += pause
        key = self.key(step)
        fields = [(name, value.replace("{key}", key)) for name, value in step.fields]
        if self.scenario.variant != "main":
            fields.append(("X-Variant", self.scenario.variant))
        raw = wire.request(step.method, step.target.replace("{key}", key), fields, step.body)
        with wire.connect(self.server.port) as peer:
            peer.sendall(raw)
            if step.during:
                assert peer.recv(1, socket.MSG_PEEK)
            for inner in step.during:
                self.take(inner)
            answer = wire.listen(peer, step.method)
        self._meant += step.takes
        _check_answer(step, answer)
        self._wait = answer.get("Retry-After") or "0"
        of_subject = self.recorded.setdefault(self.subject(step), [])
        if step.event is not None:
            of_subject.append((step, answer))


def taken(server: Server, scenario: Scenario) -> Run:
    """Take a scenario; one that fails is taken again, by another client, if the machine was late.

    What a client is told depends on when it asks. A run that was on time and fails, fails at once.
    """
    for _ in range(TAKES - 1):
        run = Run(server, scenario)
        try:
            return run.take_all()
        except AssertionError as failure:
            failure.add_note(f"The run took {run.late:.2f} s more than its pauses.")
            if run.late < ON_TIME or scenario.plan in SHARED:
                raise
    return Run(server, scenario).take_all()


@pytest.fixture(scope="module")
def runs(
    serve: Callable[[str], Server], request: pytest.FixtureRequest
) -> Iterator[Callable[[str, Scenario], Run]]:
    """Give the run of a scenario at an edge; some go on at a time, as most of them wait most of the time.

    With the first that is asked for begin all that this process is to take at its edge.
    """
    futures: dict[tuple[str, Scenario], Future[Run]] = {}
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def run_of(edge: str, scenario: Scenario) -> Run:
            if (edge, scenario) not in futures:
                server = serve(EDGES[edge])
                for each in chosen:
                    if "scenario" in each and each["edge"] == edge:
                        futures[edge, each["scenario"]] = pool.submit(taken, server, each["scenario"])
            return futures[edge, scenario].result()

        yield run_of


@pytest.mark.parametrize(("edge", "scenario"), CASES)
def test_a_scenario(
    edge: str,
    scenario: Scenario,
    runs: Callable[[str, Scenario], Run],
    counts: list[tuple[Server, str, str, int]],
) -> None:
    """What a client is told and what is recorded is what the scenario says, and nothing besides."""
    run = runs(edge, scenario)
    reached = []
    for subject, expected in run.recorded.items():
        count = len(expected) + sum(bool(step.amended) for step, _ in expected) + len(scenario.thresholds)
        events = run.server.events_of(subject, count, scenario.variant)
        assert len(events) == count
        counts.append((run.server, scenario.variant, subject, count))
        reached += [event["data"] for event in events if event["type"] == "meter_mw.threshold.v1"]
        usage = [event for event in events if event["type"] == "meter_mw.request.v1"]
        counted = [event for event in usage if "amends" not in event["data"]]
        for event, (step, answer) in zip(counted, expected, strict=True):
            assert run.began <= datetime.fromisoformat(str(event["time"])) <= run.ended
            _check_event(event, scenario, step, answer, run.key(step))
            amendments = [each for each in usage if each["data"].get("amends") == event["id"]]
            assert [_amended(each) for each in amendments] == ([step.amended] if step.amended else [])
    told = sorted((str(each["limit"]), each["threshold"]) for each in reached)  # type: ignore[index]
    assert told == sorted(scenario.thresholds)


def _check_answer(step: Step, answer: Answer) -> None:
    assert answer.whole == step.whole
    assert answer.excess == 0
    if step.status:
        assert answer.status == step.status
    else:
        assert answer.status not in (0, 400, 401, 429, 503)
    for name, value in step.answer.items():
        found = answer.get(name)
        if isinstance(value, re.Pattern):
            assert value.fullmatch(found or ""), (name, found)
        elif callable(value):
            assert value(found or ""), (name, found)
        else:
            assert (name, found) == (name, value)
    if isinstance(step.content, re.Pattern):
        assert step.content.fullmatch(answer.body), answer.body
    elif step.content is not None:
        assert answer.body == step.content
    if step.size is not None:
        assert answer.received == step.size


def _check_event(event: dict[str, object], scenario: Scenario, step: Step, answer: Answer, key: str) -> None:
    envelope = {name: value for name, value in event.items() if name not in ("id", "time", "data", "subject")}
    assert envelope == {
        "specversion": "1.0",
        "source": f"urn:meter-mw:subject-{scenario.variant}",
        "type": "meter_mw.request.v1",
        "datacontenttype": "application/json",
    }
    assert uuid.UUID(str(event["id"])).version == 7
    data = dict(event["data"])  # type: ignore[call-overload]
    assert 0 < data.pop("duration_us") < 30_000_000
    assert re.fullmatch("[0-9a-f]{16}", data.pop("policy"))
    account = "".join(key.split(".")[2:3])
    assert data == {
        "requests": 1,
        "request_bytes": sum(map(len, step.body)) if isinstance(step.body, tuple) else len(step.body),
        "response_bytes": answer.received,
        "method": step.method,
        "status": answer.status,
        "plan": scenario.plan or "default",
        "key": pseudonym(SECRET.encode(), Credential(key)),
        **({"account": account} if account else {}),
        **(step.event or {}),
    }


def _amended(event: dict[str, object]) -> dict[str, object]:
    data = dict(event["data"])  # type: ignore[call-overload]
    assert (data["requests"], data["request_bytes"], data["response_bytes"]) == (0, 0, 0)
    return {name: data[name] for name in ("tokens", "overage") if name in data}


@pytest.mark.parametrize("edge", EDGES)
def test_anonymous_is_a_subject_by_address(edge: str, serve: Callable[[str], Server]) -> None:
    """A request without a key is metered on the anonymous plan, without a key in its event."""
    server = serve(EDGES[edge])

    def anonymous() -> list[dict[str, object]]:
        return [event for event in server.events() if str(event["subject"]).startswith("anon_")]

    before = len(anonymous())
    answer = wire.talk(server.port, wire.request("GET", "/v1/items/1"))
    assert answer.get("RateLimit-Policy") == '"public";q=10000;w=1'
    wait_for(lambda: len(anonymous()) > before, "the anonymous event")
    (event,) = anonymous()[before:]
    assert event["data"]["plan"] == "public"
    assert "key" not in event["data"]


@pytest.mark.parametrize("edge", EDGES)
def test_a_preflight_is_never_refused(edge: str, serve: Callable[[str], Server]) -> None:
    """Browsers send it without the key that the policy asks for; it is recorded, and costs nothing."""
    server = serve(EDGES[edge])

    def nobodys() -> list[dict[str, object]]:
        return [event for event in server.events("strict") if event["subject"] == "anon_nobody"]

    before = len(nobodys())
    fields = [("X-Variant", "strict"), *((name, value) for name, value in PREFLIGHT if name != "X-API-Key")]
    for _ in range(3):
        answer = wire.talk(server.port, wire.request("OPTIONS", "/v1/items/1", fields))
        assert answer.status not in (0, 400, 401, 429, 503)
        assert answer.get("RateLimit") is None
    wait_for(lambda: len(nobodys()) >= before + 3, "three events")
    assert [(each["data"]["requests"], each["data"]["method"]) for each in nobodys()[before:]] == [
        (0, "OPTIONS")
    ] * 3


@pytest.mark.parametrize("edge", EDGES)
def test_unknown_keys_share_one_pool(edge: str, serve: Callable[[str], Server]) -> None:
    """Where the policy pools them, keys that nobody knows are one subject, and each is named in its event."""
    server = serve(EDGES[edge])
    keys = [f"unknown-{uuid.uuid4().hex}" for _ in range(3)]
    for key in keys:
        raw = wire.request("GET", "/v1/items/1", [("X-API-Key", key), ("X-Variant", "pool")])
        assert wire.talk(server.port, raw).status == 200
    known = {pseudonym(SECRET.encode(), Credential(key)) for key in keys}

    def told() -> list[dict[str, object]]:
        return [event for event in server.events("pool") if event["data"].get("key") in known]  # type: ignore[attr-defined]

    wait_for(lambda: len(told()) == 3, "three events")
    assert {event["subject"] for event in told()} == {"unknown_keys"}
