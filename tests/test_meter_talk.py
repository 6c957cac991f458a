"""How a meter holds the conversation: with the resolver, then with the store, blocking and awaited alike."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.admission import Answer
from meter_mw.meter import Meter, Pending
from meter_mw.policy.identity import Credential
from meter_mw.policy.policy import Unknown
from meter_mw.policy.terms import KeyEntry
from meter_mw.resolving import ResolverDesk
from meter_mw.rids import new_rid
from meter_mw.stores.access import Stores
from meter_mw.stores.memory import MemoryStore, system_clock_us
from meter_mw.stores.port import Admit, Cancel, StoreUnavailable, Tally, Verdict
from meter_mw.stores.redis_link import StoreClock
from meter_mw.talk import Resolve, ResolverUnavailable
from support.policies import key_of, policy, rate, request, sink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from meter_mw.admission import Admission
    from meter_mw.stores.port import Closing
    from meter_mw.talk import Conversation

CANARY = "sk_canary_5f1d7c"
ENTRY = KeyEntry("acme")


@pytest.fixture
def open_meter(tmp_path: Path) -> Iterator[Callable[..., Meter]]:
    """Open meters on a policy with one limit; all are closed when the test ends."""
    opened: list[Meter] = []

    def open_(resolver: object = None, *, unknown: Unknown = Unknown.REJECT, **options: Any) -> Meter:
        rules = policy(
            rate(10),
            resolver=resolver,  # type: ignore[arg-type]  # what operators write
            unknown=unknown,
            journal=tmp_path / "journal",
            sinks=[sink("file", tmp_path / "usage.jsonl")],
            **options,
        )
        opened.append(Meter(rules))
        return opened[-1]

    yield open_
    for meter in opened:
        meter.close()


def blocking(meter: Meter) -> Admission:
    """Ask as a WSGI edge does."""
    return meter.admit(request(key=CANARY))


def awaited(meter: Meter) -> Admission:
    """Ask as an ASGI edge does."""
    return asyncio.run(meter.aadmit(request(key=CANARY)))


async def acme(key: str) -> KeyEntry:
    """Resolve as an asynchronous resolver does."""
    await asyncio.sleep(0)
    return ENTRY


class Resolver:
    """A resolver that is an object with an asynchronous `__call__`."""

    async def __call__(self, key: str) -> KeyEntry:
        return ENTRY


def returns_awaitable(key: str) -> Awaitable[KeyEntry]:
    """Resolve as a plain function that hands on a coroutine does."""
    return acme(key)


def raises(kind: type[BaseException]) -> Callable[[str], KeyEntry]:
    """Make a resolver that fails, and quotes the key as it does."""

    def resolve(key: str) -> KeyEntry:
        raise kind(f"cannot look up {key}")

    return resolve


async def araises(key: str) -> KeyEntry:
    """Fail as an asynchronous resolver does."""
    raise KeyError(key)


@pytest.mark.parametrize("ask", [blocking, awaited])
@pytest.mark.parametrize("answer", [ENTRY, {"subject": "acme"}])
def test_a_plain_resolver(
    ask: Callable[[Meter], Admission], answer: object, open_meter: Callable[..., Meter]
) -> None:
    """Its answer says who calls, under every edge; it is asked once a minute."""
    asked: list[str] = []

    def resolve(key: str) -> object:
        asked.append(key)
        return answer

    meter = open_meter(resolve)
    for _ in range(3):
        caller = ask(meter).caller
        assert caller is not None
        assert (caller.subject, caller.key) == ("acme", key_of(CANARY))
    assert asked == [CANARY]


@pytest.mark.parametrize("resolver", [acme, Resolver(), returns_awaitable])
def test_an_asynchronous_resolver_is_awaited(resolver: object, open_meter: Callable[..., Meter]) -> None:
    """A coroutine function, an object with an async `__call__`, and whatever returns an awaitable."""
    caller = awaited(open_meter(resolver)).caller
    assert caller is not None
    assert caller.subject == "acme"


@pytest.mark.parametrize("resolver", [acme, Resolver(), returns_awaitable])
def test_wsgi_cannot_await(
    resolver: object, open_meter: Callable[..., Meter], caplog: pytest.LogCaptureFixture
) -> None:
    """There an asynchronous resolver is an outage whose log says why; no coroutine is left behind."""
    assert blocking(open_meter(resolver)).answer is Answer.UNAVAILABLE
    assert "it is asynchronous, which a WSGI app cannot wait for" in caplog.text


@pytest.mark.parametrize("ask", [blocking, awaited])
@pytest.mark.parametrize(
    "resolver",
    [
        raises(KeyError),
        raises(StopIteration),
        raises(TimeoutError),
        lambda key: key,
        lambda key: {key: "acme"},
    ],
)
def test_a_resolver_that_fails_is_an_outage(
    ask: Callable[[Meter], Admission],
    resolver: object,
    open_meter: Callable[..., Meter],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it raises or returns: the request is put off, and the log tells the kind but never the key."""
    caplog.set_level(logging.DEBUG)
    admission = ask(open_meter(resolver))
    assert admission.answer is Answer.UNAVAILABLE
    assert admission.reason == "the key cannot be checked at the moment"
    assert "the key resolver gave no usable answer: it r" in caplog.text
    assert CANARY not in caplog.text


def test_an_asynchronous_resolver_that_fails(
    open_meter: Callable[..., Meter], caplog: pytest.LogCaptureFixture
) -> None:
    """The same, where it is awaited."""
    assert awaited(open_meter(araises)).answer is Answer.UNAVAILABLE
    assert "it raised KeyError" in caplog.text
    assert CANARY not in caplog.text


def test_an_outage_shows_no_key(open_meter: Callable[..., Meter]) -> None:
    """The error that is thrown into the conversation prints nothing of the one that caused it."""
    meter = open_meter(raises(KeyError))
    with pytest.raises(ResolverUnavailable) as outage:
        ResolverDesk(meter.policy).ask(Resolve(key_of(CANARY), Credential(CANARY)))
    assert CANARY not in "".join(traceback.format_exception(outage.value))


def test_an_outage_is_not_kept(open_meter: Callable[..., Meter]) -> None:
    """The next request asks again, and is served when the resolver is back."""
    answers: list[object] = ["nonsense", ENTRY]
    meter = open_meter(lambda key: answers.pop(0))
    assert blocking(meter).answer is Answer.UNAVAILABLE
    assert blocking(meter).answer is Answer.ALLOWED


@pytest.mark.parametrize("unknown", Unknown)
def test_a_key_that_is_not_known(unknown: Unknown, open_meter: Callable[..., Meter]) -> None:
    """`None` is an answer: it is kept, and the policy's rule for unknown keys decides."""
    asked: list[str] = []
    meter = open_meter(asked.append, unknown=unknown)
    expected = Answer.UNIDENTIFIED if unknown is Unknown.REJECT else Answer.ALLOWED
    assert [blocking(meter).answer, blocking(meter).answer] == [expected, expected]
    assert asked == [CANARY]


class Patient(MemoryStore):
    """Takes down how long it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.patience_us: list[int] = []

    def admit(self, command: Admit, *, patience_us: int = 0) -> Tally:
        """Decide, and take down."""
        self.patience_us.append(patience_us)
        return super().admit(command, patience_us=patience_us)


class APatient:
    """The same, to be awaited."""

    def __init__(self, store: Patient) -> None:
        self._store = store

    async def admit(self, command: Admit, *, patience_us: int) -> Tally:
        """Decide, and take down."""
        return self._store.admit(command, patience_us=patience_us)

    def now_us(self) -> int:
        """Read the clock."""
        return self._store.now_us()


def wire(meter: Meter, store: Patient, ask: Callable[[Meter], Admission]) -> None:
    """Put a store in place of the meter's own, to be awaited where the meter is."""
    twin = APatient(store) if ask is awaited else None
    meter._driver._stores = Stores(store, twin, meter._settler)  # type: ignore[arg-type]  # what is used of one


@pytest.mark.parametrize("ask", [blocking, awaited])
def test_the_resolver_does_not_use_up_the_patience_of_the_store(
    ask: Callable[[Meter], Admission], open_meter: Callable[..., Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up that takes longer than the store's deadline leaves the store its whole deadline."""
    clock = [0]
    monkeypatch.setattr("meter_mw.driving._monotonic_us", lambda: clock[0])

    def slow(key: str) -> KeyEntry:
        clock[0] += 150_000
        return ENTRY

    meter = open_meter(slow, deadline_us=100_000)
    store = Patient()
    wire(meter, store, ask)
    assert ask(meter).answer is Answer.ALLOWED
    assert store.patience_us == [100_000]


@pytest.mark.parametrize("ask", [blocking, awaited])
def test_the_rounds_share_one_deadline(
    ask: Callable[[Meter], Admission], open_meter: Callable[..., Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is asked again is given what is left, not the whole again."""
    clock = [0]
    monkeypatch.setattr("meter_mw.driving._monotonic_us", lambda: clock[0])
    meter = open_meter(unknown=Unknown.ACCEPT, deadline_us=100_000)

    class Late(Patient):
        def admit(self, command: Admit, *, patience_us: int = 0) -> Tally:
            self.patience_us.append(patience_us)
            clock[0] += 30_000
            return Tally(Verdict.LATE, self.now_us())

    store = Late()
    wire(meter, store, ask)
    assert ask(meter).answer is Answer.ALLOWED
    assert store.patience_us == [100_000, 70_000, 40_000]


@pytest.mark.parametrize("ask", [blocking, awaited])
@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, asyncio.CancelledError])
def test_an_admission_that_breaks_off_is_cancelled(
    ask: Callable[[Meter], Admission], fault: type[BaseException], open_meter: Callable[..., Meter]
) -> None:
    """Whether the store has charged is not known then, so what it may have taken is given back."""
    meter = open_meter(unknown=Unknown.ACCEPT)
    closings: list[Closing] = []

    class Broken(Patient):
        def admit(self, command: Admit, *, patience_us: int = 0) -> Tally:
            raise fault

    store = Broken()
    meter._settler.put = closings.append  # type: ignore[method-assign]  # to see what is put
    wire(meter, store, ask)
    with pytest.raises(fault):
        ask(meter)
    assert [type(each) for each in closings] == [Cancel]


@pytest.mark.parametrize("ask", [blocking, awaited])
def test_a_conversation_that_breaks_off_ends_there_and_then(
    ask: Callable[[Meter], Admission], open_meter: Callable[..., Meter]
) -> None:
    """What it took is given back, whoever holds on to it: who collects garbage may hold the lock for that."""
    meter = open_meter(unknown=Unknown.ACCEPT)
    ends: list[str] = []

    class Broken(Patient):
        def admit(self, command: Admit, *, patience_us: int = 0) -> Tally:
            raise KeyboardInterrupt

    def talk() -> Conversation[None]:
        try:
            yield Admit(new_rid(0), "t", 0, ())
        finally:
            ends.append("given back")

    wire(meter, Broken(), ask)
    held = talk()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(meter._driver.adrive(held)) if ask is awaited else meter._driver.drive(held)
    assert ends == ["given back"]


def awaited_alone(meter: Meter) -> Admission:
    """Ask as an ASGI edge does, and let go of the loop's connection."""

    async def ask() -> Admission:
        admission = await meter.aadmit(request(key=CANARY))
        await meter.aflush()
        return admission

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [blocking, awaited_alone])
def test_whoever_asks_learns_the_time_of_the_store(
    ask: Callable[[Meter], Admission],
    open_meter: Callable[..., Meter],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine whose clock is an hour behind is late once, and then no more."""
    behind = (lambda: system_clock_us() - 3_600_000_000,)
    monkeypatch.setattr(StoreClock.__init__, "__defaults__", behind)
    meter = open_meter(unknown=Unknown.ACCEPT, store=redis_url)
    assert ask(meter).answer is Answer.ALLOWED
    begun = meter.begin(request(key=CANARY))
    assert isinstance(begun, Pending)
    begun.talk.close()
    assert abs(begun.now_us - system_clock_us()) < 60_000_000


def test_an_outage_of_the_store_is_thrown_in(open_meter: Callable[..., Meter]) -> None:
    """An open limit serves, and nothing is cancelled: what is served is settled later."""
    meter = open_meter(unknown=Unknown.ACCEPT)
    closings: list[Closing] = []

    class Away(Patient):
        def admit(self, command: Admit, *, patience_us: int = 0) -> Tally:
            raise StoreUnavailable("gone")

    wire(meter, Away(), blocking)
    meter._settler.put = closings.append  # type: ignore[method-assign]  # to see what is put
    assert blocking(meter).answer is Answer.ALLOWED
    assert closings == []


@pytest.mark.parametrize("ask", [blocking, awaited])
@pytest.mark.parametrize("answer", [{"subject": CANARY}, {"subject": "acme", "account": CANARY}])
def test_a_resolver_that_returns_the_key_is_refused(
    open_meter: Callable[..., Meter],
    ask: Callable[[Meter], Admission],
    answer: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A subject or an account that is the key would show it in every event."""
    assert ask(open_meter(lambda key: answer)).answer is Answer.UNAVAILABLE
    assert "returned the key itself" in caplog.text
    assert CANARY not in caplog.text
