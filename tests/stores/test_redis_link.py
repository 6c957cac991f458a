"""The manners of the conversation, without a server: the breaker, the clock, what is sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis import exceptions as redis_errors

from meter_mw.stores.echoes import Echo
from meter_mw.stores.port import NotAsked, Refusal, StoreUnavailable
from meter_mw.stores.redis_link import Breaker, Crowded, Leave, StoreClock, Unreached, converse
from meter_mw.stores.redis_protocol import DIGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL = ("EVALSHA", "digest", 1, "key", b"echo")
OURS = ("EVALSHA", DIGEST, 1, "key", Echo(b"echo"))


class Seconds:
    """A monotonic clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def hold(answers: Sequence[object], *, calls=(CALL,), breaker: Breaker | None = None, urgent: bool = True):
    """Hold a conversation with these answers; give what came of it, and what was sent."""
    sent = []
    talk = converse(calls, "h:1", breaker or Breaker(), urgent=urgent)
    try:
        trip = next(talk)
        for answer in answers:
            sent.append(trip)
            trip = talk.send(answer)
    except StopIteration as end:
        return end.value, sent
    except StoreUnavailable as outage:
        return outage, sent
    raise AssertionError(f"asks for more: {trip}")


def test_one_trip() -> None:
    """An answer is an answer."""
    replies, sent = hold([[b"x"]])
    assert replies == [b"x"]
    assert [(each.calls, each.fresh) for each in sent] == [((CALL,), False)]


@pytest.mark.parametrize("loss", [redis_errors.ConnectionError("gone"), ConnectionResetError(104, "reset")])
def test_lost_connections(loss) -> None:
    """A lost connection is made up for twice, on new ones, by the same call."""
    replies, sent = hold([loss, loss, [b"x"]])
    assert replies == [b"x"]
    assert [each.fresh for each in sent] == [False, True, True]
    outage, sent = hold([loss, loss, loss])
    assert isinstance(outage, StoreUnavailable)
    assert len(sent) == 3


@pytest.mark.parametrize(
    "failure",
    [
        TimeoutError(),
        redis_errors.TimeoutError("Timeout reading from socket"),
        redis_errors.AuthenticationError("invalid password canary"),
        redis_errors.BusyLoadingError("loading"),
        redis_errors.ResponseError("unknown command 'AUTH', with args beginning with: 'canary'"),
        redis_errors.InvalidResponse("canary"),
        Crowded("its 8 connections are all in use"),
    ],
)
def test_what_is_not_sent_again(failure) -> None:
    """A silence has used the patience up, a refusal stays one; no words of a handshake are quoted."""
    outage, sent = hold([failure])
    assert isinstance(outage, StoreUnavailable)
    assert len(sent) == 1
    assert "h:1" in str(outage)
    assert "canary" not in str(outage)
    assert outage.__cause__ is None


def test_no_script() -> None:
    """The first call brings the script, those behind it find it; what was answered is not repeated."""
    lost = redis_errors.NoScriptError("No matching script")
    a, b, c, d = (each + b"echo" for each in (b"a", b"b", b"c", b"d"))
    replies, sent = hold([[lost, b, lost, lost], [a, c, d]], calls=(OURS,) * 4)
    assert replies == [a, b, c, d]
    assert [each[0] for each in sent[1].calls] == ["EVAL", "EVALSHA", "EVALSHA"]


def test_a_reply_that_strayed_is_not_believed() -> None:
    """Who is told what another asked asks again on a new connection; an error has no echo."""
    other, mine = b"applied" + b"etho", b"admitted" + b"echo"
    replies, sent = hold([[other], [mine]], calls=(OURS,))
    assert replies == [mine]
    assert sent[1].fresh
    outage, _ = hold([[other]] * 8, calls=(OURS,))
    assert isinstance(outage, StoreUnavailable)
    assert "the answer to another call" in str(outage)


def test_no_script_for_ever() -> None:
    """A server that never learns is an outage."""
    lost = redis_errors.NoScriptError("No matching script")
    outage, sent = hold([[lost]] * 8)
    assert isinstance(outage, StoreUnavailable)
    assert len(sent) == 8


def test_silence_after_no_script() -> None:
    """What is told is what happened last."""
    outage, _ = hold([[redis_errors.NoScriptError("No matching script")], TimeoutError()])
    assert "did not answer in time" in str(outage)


def test_read_only() -> None:
    """A demoted server is asked once more, on a new connection."""
    demoted = redis_errors.ReadOnlyError(
        "You can't write against a read only replica.",
    )
    replies, sent = hold([[demoted], [b"x"]])
    assert replies == [b"x"]
    assert sent[1].fresh
    outage, sent = hold([[demoted], [demoted]])
    assert "read only" in str(outage)
    assert len(sent) == 2


def test_one_refusal_in_a_batch() -> None:
    """The others are answered; the batch as a whole is not, and says why."""
    wrong = redis_errors.ResponseError("WRONGTYPE Operation against a key")
    outage, sent = hold([[b"a", wrong]], calls=(CALL, CALL))
    assert "WRONGTYPE" in str(outage)
    assert outage.__cause__ is wrong
    assert len(sent) == 1


# The breaker


def test_breaker_spares_the_wait() -> None:
    """After a silence one probe goes through at once, then one after each hold; an answer closes it."""
    clock = Seconds()
    breaker = Breaker(clock)
    hold([TimeoutError()], breaker=breaker)
    for length in (0.2, 0.4, 0.8, 1.0, 1.0):
        assert breaker.enter() is Leave.AS_PROBE
        assert breaker.enter() is None
        breaker.silent(Leave.AS_PROBE)
        clock.now += length - 0.01
        assert breaker.enter() is None
        clock.now += 0.02
    assert hold([[b"x"]], breaker=breaker)[0] == [b"x"]
    assert [breaker.enter() for _ in range(3)] == [Leave.FREELY] * 3


def test_open_breaker_asks_nobody() -> None:
    """An admission fails at once; a closing, which nobody waits for, goes through."""
    breaker = Breaker(Seconds())
    breaker.silent(Leave.FREELY)
    assert breaker.enter() is Leave.AS_PROBE
    outage, sent = hold([], breaker=breaker)
    assert isinstance(outage, StoreUnavailable)
    assert sent == []
    assert hold([[b"x"]], breaker=breaker, urgent=False)[0] == [b"x"]
    assert breaker.enter() is Leave.FREELY


def test_probe_that_was_cancelled() -> None:
    """A probe that ends without an answer makes room for the next."""
    breaker = Breaker(Seconds())
    breaker.silent(Leave.FREELY)
    talk = converse((CALL,), "h:1", breaker, urgent=True)
    next(talk)
    assert breaker.enter() is None
    talk.close()
    assert breaker.enter() is Leave.AS_PROBE


def test_crowd_says_nothing_of_the_server() -> None:
    """No connection free is not the server's silence."""
    breaker = Breaker(Seconds())
    hold([Crowded("all in use")], breaker=breaker)
    assert breaker.enter() is Leave.FREELY


def test_late_silences_do_not_lengthen_the_hold() -> None:
    """Those who were under way when it opened change nothing."""
    clock = Seconds()
    breaker = Breaker(clock)
    for _ in range(50):
        breaker.silent(Leave.FREELY)
    assert breaker.enter() is Leave.AS_PROBE
    breaker.silent(Leave.AS_PROBE)
    clock.now += 0.21
    assert breaker.enter() is Leave.AS_PROBE


# The clock


def test_clock_learns_the_offset() -> None:
    """A reply bounds the offset from both sides; a slow one does not spoil what a quick one taught."""
    local = [1_000_000]
    clock = StoreClock(lambda: local[0])
    assert clock.now_us() == 1_000_000
    clock.learn(61_000_100, 999_900)
    assert clock.now_us() == 61_000_100
    local[0] += 100_000
    clock.learn(61_000_200, 1_000_000)
    assert clock.now_us() == 61_100_100
    clock.learn(500, local[0] - 10)
    assert clock.now_us() == 510


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([Unreached("refused")] * 3, NotAsked),
        (
            [redis_errors.ConnectionError("gone"), Unreached("refused"), Unreached("refused")],
            StoreUnavailable,
        ),
        ([Crowded("full")], NotAsked),
        ([TimeoutError()], StoreUnavailable),
        ([[redis_errors.ResponseError("WRONGTYPE")]], Refusal),
    ],
)
def test_what_is_known_of_a_command_without_an_answer(answers, kind) -> None:
    """A failure says whether the store may have acted: not where nothing ever left, nor where it refused."""
    outage, _ = hold(answers)
    assert type(outage) is kind


def test_a_shut_breaker_asks_nothing() -> None:
    """Who is not let through has surely not asked."""
    breaker = Breaker(Seconds())
    hold([TimeoutError()], breaker=breaker)
    hold([TimeoutError()], breaker=breaker)
    outage, sent = hold([], breaker=breaker)
    assert type(outage) is NotAsked
    assert sent == []
