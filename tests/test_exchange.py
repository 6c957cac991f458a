"""One exchange while it passes: what is counted, what the app may report, and who can see it."""

from __future__ import annotations

import asyncio
import re
import threading
from contextvars import copy_context
from dataclasses import replace

import pytest

from meter_mw.admission import Admission, Answer, Standing
from meter_mw.core import admit
from meter_mw.exchange import Exchange, UsageError, current, enter
from meter_mw.lasting import UNBOUNDED, Room
from meter_mw.model import LARGEST_COST, Count, Meter, MeterError, RequestId
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.policy.terms import Exemption, KeyEntry, Limit, Line
from support.policies import EGRESS, INGRESS, METERS, REQUESTS, TOKENS, cap, policy, rate, request, route
from support.talks import RID, admission_on

RULES = policy(keys={"k": KeyEntry("acme")}, routes=[route("/health", exemption=Exemption.FREE)])


def admission_of(path: str = "/", *standings: Standing) -> Admission:
    """Give an admission that no store was asked about."""
    talk = admit(RULES, request(path, key="k"), RequestId("rid"), 0)
    with pytest.raises(StopIteration) as end:
        next(talk)
    admission = end.value.value
    assert isinstance(admission, Admission)
    return admission._replace(standings=standings)


class Late:
    """Takes down what is reported too late."""

    def __init__(self) -> None:
        self.reports: list[tuple[Exchange, str, int]] = []

    def __call__(self, exchange: Exchange, meter: str, units: int) -> None:
        self.reports.append((exchange, meter, units))


def exchange(
    method: str = "GET",
    *,
    admission: Admission | None = None,
    late: Late | None = None,
    started_us: int = 100,
) -> Exchange:
    """Open a count."""
    return Exchange(RULES, admission or admission_of(), method, started_us, late or Late())


def sent(passing: Exchange, size: int) -> None:
    """Count so much of a response as the edges do: what a server would send of it."""
    passing.count(Count.RESPONSE_BYTES, passing.clipped(size))


def standing(limit: Limit, remaining: int) -> Standing:
    """Give how a caller stands with a limit."""
    return Standing(Line(limit, 1, 1), remaining, 5, 0)


# What the app reports


def test_reports_add_up() -> None:
    """Units reported in parts are one sum on the receipt."""
    passing = exchange()
    passing.add("tokens", 800)
    passing.add("tokens", 0)
    passing.add("tokens", 12)
    receipt = passing.end(100)
    assert receipt is not None
    assert receipt.reported == {"tokens": 812}


@pytest.mark.parametrize("units", [-1, LARGEST_COST + 1, 1.0, "1", None, True, float("nan")])
def test_units_are_whole_numbers(units: object) -> None:
    """A negative, a fraction, a text, a truth and more than 2^52 are refused, and nothing is counted."""
    passing = exchange()
    with pytest.raises(UsageError, match=re.escape("a whole number from 0 to 2^52")):
        passing.add("tokens", units)  # type: ignore[arg-type]  # what apps pass
    receipt = passing.end(100)
    assert receipt is not None
    assert receipt.reported == {}


def test_a_sum_is_at_most_two_to_the_52() -> None:
    """The report that would pass it is refused, and those before it stand."""
    passing = exchange()
    passing.add("tokens", LARGEST_COST)
    with pytest.raises(UsageError, match="would pass 2"):
        passing.add("tokens", 1)
    receipt = passing.end(100)
    assert receipt is not None
    assert receipt.reported == {"tokens": LARGEST_COST}


def test_a_meter_that_is_not_there() -> None:
    """The complaint names the meters that are."""
    with pytest.raises(UsageError, match="no meter 'token'; it has requests, ingress, egress, tokens"):
        exchange().add("token", 1)


@pytest.mark.parametrize("meter", [each.name for each in METERS if each is not TOKENS])
def test_meters_that_count_by_themselves(meter: str) -> None:
    """Requests and bytes are not the app's to add to."""
    with pytest.raises(UsageError, match="counts by itself"):
        exchange().add(meter, 1)


def test_usage_errors_are_of_both_families() -> None:
    """They can be caught as ours, or as the ValueError that they are."""
    assert issubclass(UsageError, MeterError)
    assert issubclass(UsageError, ValueError)


def test_an_exempt_route_counts_nothing() -> None:
    """A report there is checked and let go, before and after the end."""
    late = Late()
    passing = exchange(admission=admission_of("/health"), late=late)
    passing.add("tokens", 5)
    with pytest.raises(UsageError):
        passing.add("tokens", -5)
    receipt = passing.end(100)
    passing.add("tokens", 5)
    assert receipt is not None
    assert (receipt.reported, late.reports) == ({}, [])
    assert (passing.subject, passing.plan) == (None, None)


def test_a_late_report_is_passed_on() -> None:
    """After the end each report goes its own way, and the receipt stays as it was given."""
    late = Late()
    passing = exchange(late=late)
    passing.add("tokens", 1)
    receipt = passing.end(100)
    passing.add("tokens", 2)
    passing.add("tokens", 3)
    assert late.reports == [(passing, "tokens", 2), (passing, "tokens", 3)]
    assert receipt is not None
    assert receipt.reported == {"tokens": 1}


def test_a_late_report_may_report_again() -> None:
    """What takes late reports is called outside of the lock."""
    passing: list[Exchange] = []
    seen: list[int] = []

    def late(exchange: Exchange, meter: str, units: int) -> None:
        seen.append(units)
        if units:
            exchange.add(meter, units - 1)

    passing.append(Exchange(RULES, admission_of(), "GET", 0, late))
    passing[0].end(0)
    passing[0].add("tokens", 2)
    assert seen == [2, 1, 0]


def test_reports_wait_for_each_other() -> None:
    """A report that comes while another is being added is added after it."""
    passing = exchange()
    others: list[threading.Thread] = []

    class Interrupted(dict[str, int]):
        def get(self, name: str, default: int = 0) -> int:  # type: ignore[override]  # as it is used
            total = super().get(name, default)
            if not others:
                others.append(threading.Thread(target=passing.add, args=("tokens", 5)))
                others[0].start()
                others[0].join(0.05)
            return total

    passing._reported = Interrupted()
    passing.add("tokens", 3)
    others[0].join()
    assert passing._reported == {"tokens": 8}


def test_32_threads_report_exactly() -> None:
    """No report is lost, and none counts twice, also when the exchange ends in between."""
    late = Late()
    passing = exchange(late=late)
    together = threading.Barrier(33)

    def report() -> None:
        together.wait()
        for _ in range(500):
            passing.add("tokens", 3)

    threads = [threading.Thread(target=report) for _ in range(32)]
    for thread in threads:
        thread.start()
    together.wait()
    while passing._reported.get("tokens", 0) < 9_000:
        pass
    receipt = passing.end(100)
    for thread in threads:
        thread.join()
    assert receipt is not None
    on_time, too_late = receipt.reported["tokens"], sum(units for _, _, units in late.reports)
    assert on_time >= 9_000
    assert on_time + too_late == 32 * 500 * 3


# What the app may ask


def test_who_is_metered() -> None:
    """Subject and plan are those of the caller."""
    assert (exchange().subject, exchange().plan) == ("acme", "default")


def test_remaining_is_that_of_the_tightest_limit() -> None:
    """Of several limits on a meter the one with the least left counts; others do not."""
    standings = (standing(rate(9), 7), standing(cap(9), 4), standing(cap(9, meter=EGRESS), 2))
    passing = exchange(admission=admission_of("/", *standings))
    assert passing.remaining() == passing.remaining("requests") == 4
    assert passing.remaining("egress") == 2
    assert passing.remaining("tokens") is None


def test_remaining_of_a_meter_that_is_not_there() -> None:
    """A misspelt meter is an error, not an unlimited one."""
    with pytest.raises(UsageError, match="no meter 'request'"):
        exchange().remaining("request")


# What passes


@pytest.mark.parametrize("length", [None, "", "x", "-1", "1.0", "9" * 5_000])
def test_chunks_are_counted_as_they_pass(length: str | None) -> None:
    """Without a length that can be read, all that is sent counts, and only the app's end is the end."""
    passing = exchange()
    passing.begin(200, length)
    for size in (3, 0, 4):
        sent(passing, size)
    assert not passing.completes()
    assert passing.clipped(10**9) == 10**9
    receipt = passing.end(100)
    assert receipt is not None
    assert (receipt.response_bytes, receipt.status) == (7, 200)


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304), ("GET", 100), ("GET", 103), ("GET", 199)],
)
def test_what_has_no_content_counts_none(method: str, status: int) -> None:
    """HEAD, 1xx, 204 and 304 are 0 bytes, whatever is declared or sent, and complete at once."""
    passing = exchange(method)
    passing.begin(status, "5000")
    sent(passing, 5_000)
    assert passing.completes()
    receipt = passing.end(100)
    assert receipt is not None
    assert (receipt.response_bytes, receipt.status) == (0, status)


@pytest.mark.parametrize("status", [200, 206, 205, 301, 404, 416, 500])
def test_other_answers_have_content(status: int) -> None:
    """What is sent counts, errors included."""
    passing = exchange()
    passing.begin(status, None)
    sent(passing, 9)
    assert passing.response_bytes == 9


def test_nothing_beyond_the_declared_length_counts() -> None:
    """Servers send no byte beyond it, and what they do not send is not billed."""
    passing = exchange()
    passing.begin(200, "10")
    sent(passing, 6)
    assert passing.response_bytes == 6
    assert (passing.clipped(3), passing.clipped(5)) == (3, 4)
    assert not passing.completes()
    sent(passing, 6)
    assert passing.response_bytes == 10
    assert passing.completes()
    sent(passing, 6)
    assert passing.response_bytes == 10


def test_a_declared_length_is_not_believed() -> None:
    """A response that ends short of it counts what was sent."""
    passing = exchange()
    passing.begin(200, "10")
    sent(passing, 6)
    receipt = passing.end(100)
    assert receipt is not None
    assert receipt.response_bytes == 6


def test_an_empty_response_is_complete_at_once() -> None:
    """A declared length of 0 has nothing to wait for."""
    passing = exchange()
    passing.begin(200, "0")
    assert passing.completes()


def test_an_answer_may_begin_anew() -> None:
    """WSGI's `exc_info` replaces a response that was not sent yet, a bodiless one included."""
    passing = exchange()
    passing.begin(204, None)
    passing.begin(500, "5")
    sent(passing, 5)
    assert (passing.status, passing.response_bytes) == (500, 5)


# The end


def test_an_exchange_ends_once() -> None:
    """The first end gives the receipt, any other one nothing."""
    passing = exchange(started_us=100)
    passing.begin(200, None)
    passing.request_bytes += 4
    receipt = passing.end(250)
    assert receipt is not None
    assert (receipt.request_bytes, receipt.duration_us) == (4, 150)
    assert passing.end(300) is None


def test_of_32_ends_one_has_the_receipt() -> None:
    """Whichever thread is first."""
    passing = exchange()
    together = threading.Barrier(32)
    receipts: list[object] = []

    def end() -> None:
        together.wait()
        receipts.append(passing.end(100))

    threads = [threading.Thread(target=end) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receipts) - receipts.count(None) == 1


def test_a_client_that_left_before_the_answer() -> None:
    """Without a response the status on record is 499."""
    receipt = exchange().end(100)
    assert receipt is not None
    assert receipt.status == 499


def test_a_clock_that_went_back_makes_no_negative_duration() -> None:
    """A duration is 0 at least."""
    receipt = exchange(started_us=100).end(99)
    assert receipt is not None
    assert receipt.duration_us == 0


# How much may pass


TOLD = Meter("told", Count.RESPONSE_MESSAGES)
WIDE = policy(
    replace(cap(10**6, meter=EGRESS, name="egress"), reserve=500),
    replace(cap(10**6, meter=INGRESS, name="ingress"), reserve=300),
    replace(cap(99, meter=TOLD, name="told"), reserve=1),
    meters=(*METERS, TOLD),
)


def limited() -> Exchange:
    """Open the count of an exchange that holds 500 bytes of response, 300 of request and one message."""
    admission = admission_on(WIDE, request(key="k", is_socket=True))
    return Exchange(WIDE, admission, "GET", 100, Late())


def rooms_of(passing: Exchange) -> tuple[int, int, int, int]:
    """Give all four rooms."""
    return (
        passing.request_room,
        passing.response_room,
        passing.request_messages_room,
        passing.response_messages_room,
    )


def test_what_is_not_limited_has_no_bound() -> None:
    """A comparison of integers is all that it costs."""
    assert rooms_of(exchange()) == (UNBOUNDED,) * 4
    assert rooms_of(limited()) == (300, 500, UNBOUNDED, 1)


def test_a_room_widens_what_may_pass() -> None:
    """Only the room of its own count; one that refuses changes nothing."""
    passing = limited()
    assert passing.widened(Count.RESPONSE_BYTES, Room(1_000, 700), RID) == Room(1_000, 700)
    assert rooms_of(passing) == (300, 1_000, UNBOUNDED, 1)
    stop = (standing(cap(9), 0),)
    passing.widened(Count.REQUEST_BYTES, Room(0, 0, stop), RID)
    passing.widened(Count.REQUEST_BYTES, Room(0, 0, unavailable=True), RID)
    assert rooms_of(passing) == (300, 1_000, UNBOUNDED, 1)
    passing.widened(Count.RESPONSE_MESSAGES, Room(UNBOUNDED, 3), RID)
    assert rooms_of(passing)[3] == UNBOUNDED


@pytest.mark.parametrize("count", [Count.REQUEST_BYTES, Count.RESPONSE_BYTES, Count.RESPONSE_MESSAGES])
def test_what_is_about_to_pass_is_counted_if_there_is_room(count: Count) -> None:
    """To the last unit, and not one more; without a limit everything has room."""
    passing = limited()
    room = {Count.REQUEST_BYTES: 300, Count.RESPONSE_BYTES: 500, Count.RESPONSE_MESSAGES: 1}[count]
    assert passing.claims((count, room))
    assert not passing.claims((count, 1))
    assert passing.lacking((count, 1), (Count.REQUEST_MESSAGES, 1)) == [(count, 1)]
    assert passing.claims((count, 0))
    assert passing.claims((Count.REQUEST_MESSAGES, 10**9))
    receipt = passing.end(100)
    assert receipt is not None
    assert getattr(receipt, count.value.replace("-", "_")) == room
    assert receipt.request_messages == 10**9


def test_of_several_that_pass_together_none_is_counted_alone() -> None:
    """Where one has no room, nothing is counted of the others; a count is never taken back."""
    passing = limited()
    both = ((Count.RESPONSE_MESSAGES, 1), (Count.RESPONSE_BYTES, 501))
    assert not passing.claims(*both)
    assert passing.lacking(*both) == [(Count.RESPONSE_BYTES, 501)]
    assert (passing.response_messages, passing.response_bytes) == (0, 0)
    assert passing.claims((Count.RESPONSE_MESSAGES, 1), (Count.RESPONSE_BYTES, 500))
    assert (passing.response_messages, passing.response_bytes) == (1, 500)


def test_threads_that_claim_together_never_pass_the_room() -> None:
    """Of 8 that want 100 each of 500 five have them."""
    passing, together, had = limited(), threading.Barrier(8), []

    def claim() -> None:
        together.wait()
        had.append(passing.claims((Count.RESPONSE_BYTES, 100)))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (had.count(True), passing.response_bytes) == (5, 500)


def test_what_the_declared_length_clips_counts_what_is_sent() -> None:
    """The rest of a chunk beyond it is neither sent nor counted, nor room asked for it."""
    passing = exchange()
    passing.begin(200, "10")
    assert [passing.clipped(size) for size in (0, 9, 10, 11)] == [0, 9, 10, 10]
    sent(passing, 9)
    assert passing.clipped(5) == 1
    assert passing.expected == 10
    head = exchange("HEAD")
    head.begin(200, "10")
    assert (head.clipped(5), head.expected) == (0, 0)
    free = exchange()
    free.begin(200, None)
    assert (free.clipped(5), free.expected) == (5, None)


def test_what_stopped_it_is_on_the_receipt() -> None:
    """By name, in the order of the limits."""
    passing = exchange()
    passing.stopped((standing(cap(9), 0), standing(rate(9), 0)))
    receipt = passing.end(100)
    assert receipt is not None
    assert (receipt.limited_by, receipt.refused) == (("cap", "rate"), False)


def test_one_that_was_refused_says_so() -> None:
    """Its receipt costs nothing but the bytes that had passed."""
    passing = exchange()
    passing.refusal = passing.admission
    receipt = passing.end(100)
    assert receipt is not None
    assert receipt.refused


# Parts


def following(passing: Exchange, rid: str, *granted: int) -> Admission:
    """Give the admission of a next part that was granted so much of each limit."""
    return passing.admission._replace(rid=RequestId(rid), granted=granted)


def test_the_parts_of_an_exchange_add_up() -> None:
    """Each receipt has what passed since the one before; the rooms go on from what is told."""
    passing = limited()
    passing.begin(200, None)
    passing.request_bytes, passing.response_messages = 250, 1
    sent(passing, 450)
    passing.add("tokens", 5)
    first = passing.part(1_100, following(passing, "second"))
    assert first is not None
    admission, receipt = first
    assert admission.rid == RID
    assert (receipt.request_bytes, receipt.response_bytes, receipt.response_messages) == (250, 450, 1)
    assert (receipt.reported, receipt.status, receipt.duration_us) == ({"tokens": 5}, 200, 1_000)
    assert passing.standing_of(Count.RESPONSE_BYTES)[1] == 450
    assert passing.passed(Count.RESPONSE_BYTES) == 450
    passing.resume(following(passing, "second", 800, 300, 1))
    assert rooms_of(passing) == (550, 1_250, UNBOUNDED, 2)
    sent(passing, 50)
    passing.add("tokens", 7)
    last = passing.end(1_300)
    assert last is not None
    assert (last.request_bytes, last.response_bytes, last.response_messages) == (0, 50, 0)
    assert (last.reported, last.duration_us, last.status) == ({"tokens": 7}, 200, 200)


def test_a_room_of_a_part_is_said_of_the_whole() -> None:
    """The store knows what the part has; the edge counts from the beginning."""
    passing = limited()
    sent(passing, 450)
    passing.part(1_100, following(passing, "second"))
    assert passing.widened(Count.RESPONSE_BYTES, Room(600, 200), RequestId("second")) == Room(1_050, 650)
    assert passing.response_room == 1_050


def test_a_room_of_a_part_that_is_over_is_none() -> None:
    """What was granted to the part before is no room of this one: it changes nothing, and is asked again."""
    passing = limited()
    sent(passing, 450)
    passing.part(1_100, following(passing, "second", 0, 0, 0))
    before = rooms_of(passing)
    assert passing.widened(Count.RESPONSE_BYTES, Room(600, 600), RID) is None
    assert rooms_of(passing) == before


def test_a_part_before_the_answer_has_no_status() -> None:
    """The last one says what became of it."""
    passing = limited()
    part = passing.part(1_100, following(passing, "second"))
    assert part is not None
    assert part[1].status == 0
    assert part[1].is_empty


def test_an_exchange_that_has_ended_has_no_more_parts() -> None:
    """The end has told everything."""
    passing = limited()
    passing.end(100)
    assert passing.part(1_100, following(passing, "second")) is None
    assert passing.admission.rid == RID


def test_an_answer_for_a_part_that_is_over_is_not_taken_up() -> None:
    """While the store was asked for the second part the third has begun."""
    passing = limited()
    passing.part(1_100, following(passing, "second"))
    passing.part(1_200, following(passing, "third"))
    passing.resume(following(passing, "second", 10, 10, 10))
    assert (passing.admission.rid, passing.response_room) == ("third", UNBOUNDED)


def test_parts_and_the_end_race_and_count_each_byte_once() -> None:
    """A keeper closes parts while threads report and one of them ends it: the sum is what was reported."""
    late = Late()
    passing = Exchange(RULES, admission_of(), "GET", 0, late)
    together, told = threading.Barrier(6), []

    def report() -> None:
        together.wait()
        for _ in range(2_000):
            passing.add("tokens", 1)

    def keep() -> None:
        together.wait()
        while (part := passing.part(1, following(passing, "next"))) is not None:
            told.append(part[1].reported.get("tokens", 0))

    threads = [threading.Thread(target=report) for _ in range(4)] + [threading.Thread(target=keep)]
    for thread in threads:
        thread.start()
    together.wait()
    while sum(told) < 4_000:
        pass
    last = passing.end(2)
    for thread in threads:
        thread.join()
    assert last is not None
    after = sum(units for _, _, units in late.reports)
    assert sum(told) + last.reported.get("tokens", 0) + after == 8_000


# What the app says in fields of its response


def heard(*values: str, strip: bool = False) -> tuple[Exchange, tuple[str, ...]]:
    """Let an exchange hear what a response says in X-Tokens."""
    telling = replace(TOKENS, from_header="X-Tokens", strip=strip)
    rules = policy(keys={"k": KeyEntry("acme")}, meters=(REQUESTS, telling))
    passing = Exchange(rules, admission_of(), "GET", 0, Late())
    return passing, passing.hear(lambda name: values if name == "X-Tokens" else ())


def reported(passing: Exchange) -> dict[str, int]:
    """End an exchange, and give what was reported."""
    receipt = passing.end(1)
    assert receipt is not None
    return receipt.reported


@pytest.mark.parametrize(
    ("values", "expected"), [(("12",), 12), ((" 12 ",), 12), (("5", "7"), 12), (("0",), 0)]
)
def test_a_field_of_the_response_reports(values: tuple[str, ...], expected: int) -> None:
    """Each value of it is added, as the app would by itself."""
    passing, stripped = heard(*values)
    assert (reported(passing), stripped) == ({"tokens": expected}, ())


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "x", "1,2", "9" * 5_000, str(LARGEST_COST + 1)])
def test_a_field_that_is_no_whole_number_is_said(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """It counts nothing, and the log has it."""
    passing, _ = heard(value)
    assert reported(passing) == {}
    assert "X-Tokens, which is no whole number" in caplog.text


def test_a_field_is_stripped_where_the_policy_says_so() -> None:
    """Whether it is there or not, valid or not; the edge takes it out."""
    assert heard("12", strip=True)[1] == ("X-Tokens",)
    assert heard(strip=True)[1] == ("X-Tokens",)
    assert heard("12")[1] == ()


# current()


def in_own_context(test: object) -> None:
    """Run in a copy of the context, so that what is entered ends with the test."""
    copy_context().run(test)  # type: ignore[arg-type]  # a callable without arguments


def test_current_is_what_was_entered() -> None:
    """`current()` gives the exchange of this context, and the outer one after it is entered again."""

    def handler() -> None:
        outer, inner = exchange(), exchange()
        enter(outer)
        assert current() is outer
        enter(inner)
        assert current() is inner
        enter(outer)
        assert current() is outer

    in_own_context(handler)


def test_current_outside_of_a_request() -> None:
    """Where nothing is metered the error says what to look at; the same after it was left."""
    with pytest.raises(UsageError, match="is MeterMiddleware installed"):
        current()

    def handler() -> None:
        enter(exchange())
        enter(None)
        with pytest.raises(UsageError, match="no metered request"):
            current()

    in_own_context(handler)


def test_what_is_entered_stays_in_its_context() -> None:
    """A request leaves nothing behind for the next one on its thread."""
    in_own_context(lambda: enter(exchange()))
    with pytest.raises(UsageError):
        current()


def test_tasks_have_the_exchange_of_their_request() -> None:
    """Tasks, gathered ones and threads of `to_thread` see their own request's, however they interleave."""

    async def handler() -> None:
        mine = exchange()
        enter(mine)
        await asyncio.sleep(0)

        async def part() -> Exchange:
            await asyncio.sleep(0)
            return current()

        found = [*await asyncio.gather(part(), part()), await asyncio.create_task(part())]
        found.append(await asyncio.to_thread(current))
        assert all(each is mine for each in found)

    async def server() -> None:
        await asyncio.gather(*(handler() for _ in range(20)))

    asyncio.run(server())


def test_a_copied_context_carries_the_exchange() -> None:
    """A pool that runs work in the context of its caller finds the exchange."""
    found: list[Exchange] = []

    def handler() -> Exchange:
        mine = exchange()
        enter(mine)
        thread = threading.Thread(target=copy_context().run, args=(lambda: found.append(current()),))
        thread.start()
        thread.join()
        return mine

    mine = copy_context().run(handler)
    assert found == [mine]


def test_a_bare_thread_must_be_handed_the_exchange() -> None:
    """It has no context of its own; the error says so, and an exchange that is handed over works."""
    problems: list[str] = []

    def work(handed: Exchange) -> None:
        handed.add("tokens", 5)
        try:
            current()
        except UsageError as problem:
            problems.append(str(problem))

    def handler() -> Exchange:
        mine = exchange()
        enter(mine)
        thread = threading.Thread(target=work, args=(current(),))
        thread.start()
        thread.join()
        return mine

    receipt = copy_context().run(handler).end(100)
    assert receipt is not None
    assert receipt.reported == {"tokens": 5}
    assert len(problems) == 1
    assert "A bare thread must be handed the exchange." in problems[0]


def test_an_exchange_without_a_store_has_no_remaining() -> None:
    """Where the store did not answer nothing is said about what is left."""
    passing = Exchange(RULES, Admission(Answer.ALLOWED, RequestId("rid"), 0, NO_ROUTE), "GET", 0, Late())
    assert passing.remaining(REQUESTS.name) is None
