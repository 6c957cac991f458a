"""The `stripe` sink: usage as meter events of Stripe Billing.

Rule 1: an event is one meter event for each quantity, under `<event_name>:<id>`: the same whenever it is
        sent again, so that Stripe knows it for 24 hours.
Rule 2: a timestamp is the event's own. What Stripe takes no more is refused, and never moved.
Rule 3: the stream takes usage alone; what is negative or cancels goes by calls, which Stripe answers for.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.sinks.aggregate import WINDOW_OPTIONS, aggregated
from meter_mw.sinks.apis import apart, metered
from meter_mw.sinks.base import Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import PLAIN_HTTP, TIMEOUT, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.poster import Poster
from meter_mw.sinks.sifting import sift
from meter_mw.sinks.stripe.answers import outcome_of, together
from meter_mw.sinks.stripe.calls import Calls
from meter_mw.sinks.stripe.lines import MeterEvent, Translator
from meter_mw.sinks.stripe.stream import MOST, Stream
from meter_mw.sinks.translating import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meter_mw.sinks.answers import Answer
    from meter_mw.sinks.base import Sink
    from meter_mw.sinks.stripe.lines import Order

    _Step: TypeAlias = Callable[[], dict[int, Outcome]]

API = "https://api.stripe.com"
EVENTS = "https://meter-events.stripe.com"
KEYS = ("stripe_customer_id", "value")
"""The names in a payload under which a meter reads the customer and the value, unless it says otherwise."""

_DAY_S = 86_400.0
_MOST_CALLS = 20


class StripeSink:
    """Tells Stripe what was used: by the stream of its second API, or by calls of its first one.

    `meters` gives the event name of each quantity, `customers` the customer of each subject.
    `clock` gives seconds since 1970. Raises `ValueError` for a base URL that cannot be used.
    """

    horizon = _DAY_S

    def __init__(
        self,
        secret: str,
        meters: Mapping[str, str],
        customers: Mapping[str, str],
        *,
        name: str = "stripe",
        streams: bool = True,
        api: str = API,
        events: str = EVENTS,
        keys: tuple[str, str] = KEYS,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.max_batch = MOST if streams else _MOST_CALLS
        self._posters = Poster(api, timeout=timeout), Poster(events, timeout=timeout)
        self._meters = dict(meters)
        self._translator = Translator(self._meters, customers)
        self._calls = Calls(self._posters[0], secret, keys)
        self._stream = Stream(*self._posters, secret, keys, clock=monotonic) if streams else None
        self._clock = clock

    def __repr__(self) -> str:
        return f"StripeSink({self.name!r}, {self._posters[0].origin!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Tell Stripe of each event; after a failure that passes, nothing more is sent this time."""
        found: dict[int, Outcome] = {}
        for step in self._steps(batch, found):
            said = step()
            found |= said
            if failure := next((each for each in said.values() if isinstance(each, Retry | Unknown)), None):
                unsent = Retry(failure.after, "not sent: the attempt before it failed")
                return [found.get(place, unsent) for place in range(len(batch))]
        return [found[place] for place in range(len(batch))]

    def close(self) -> None:
        """Close the connections."""
        for poster in self._posters:
            poster.close()

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Give what Stripe has by its summaries, which follow the events some minutes later.

        Raises `ConnectionError`.
        """
        start, end = start_us // 1_000_000, end_us // 1_000_000
        found = {}
        for subject in subjects:
            customer = self._translator.customer(subject)
            for field, event_name in self._meters.items() if customer else ():
                total = self._calls.total(event_name, customer or "", start, end)
                if total is not None:
                    found[subject, field] = total
        return found

    def _steps(self, batch: Sequence[bytes], found: dict[int, Outcome]) -> list[_Step]:
        """Give what is to be done; notes what Stripe cannot bill."""
        usages: list[_Usage] = []
        calls: list[_Step] = []
        now = self._clock()
        for place, payload in enumerate(batch):
            try:
                orders = self._translator.orders(payload, now)
            except Refused as refusal:
                found[place] = Permanent(str(refusal))
                continue
            usage = [each for each in orders if isinstance(each, MeterEvent) and each.value > 0]
            if self._stream is not None and 0 < len(usage) == len(orders) <= MOST:
                usages.append((place, usage))
            else:
                calls.append(partial(self._call, place, orders))
        if self._stream is None:
            return calls
        return [*(partial(_send, self._stream, each) for each in _groups(usages)), *calls]

    def _call(self, place: int, orders: Sequence[Order]) -> dict[int, Outcome]:
        """Make the calls of one event, up to the first failure that passes."""
        told: list[tuple[str, Outcome]] = []
        for order in orders:
            told.append((order.event_name, self._calls.tell(order)))
            if isinstance(told[-1][1], Retry | Unknown):
                break
        return {place: together(told)}


_Usage: TypeAlias = tuple[int, list[MeterEvent]]


def _send(stream: Stream, group: Sequence[_Usage]) -> dict[int, Outcome]:
    """Send a group as one request, in halves where it is refused."""
    outcomes = sift(group, lambda part: stream.tell([each for _, usage in part for each in usage]), _read)
    return dict(zip((place for place, _ in group), outcomes, strict=True))


def _groups(streamed: Sequence[_Usage]) -> list[list[_Usage]]:
    """Divide events so that each group fits into a request; those of one event stay together."""
    groups: list[list[_Usage]] = []
    room = 0
    for place, orders in streamed:
        if len(orders) > room:
            groups.append([])
            room = MOST
        groups[-1].append((place, orders))
        room -= len(orders)
    return groups


def _read(answer: Answer, part: Sequence[_Usage]) -> dict[int, Outcome]:
    """Say what an answer says of each event: nothing, where one of several is refused."""
    outcome = outcome_of(answer)
    if isinstance(outcome, Permanent | Duplicate) and len(part) > 1:
        return {}
    return dict.fromkeys(range(len(part)), outcome)


def _fault_of_key(secret: str) -> str | None:
    is_secret = secret.startswith(("sk_", "rk_"))
    return None if is_secret else "this is no secret key of Stripe's: it begins with neither sk_ nor rk_"


def _open(settings: Settings, service: Service) -> Sink:
    meters = metered(settings.table("meters"), service.fields)
    sink = StripeSink(
        settings.text("secret"),
        meters,
        apart(settings.table("customers")),
        name=f"stripe:{settings.text('stripe')}",
        streams=settings.text("by") == "stream",
        api=settings.text("api"),
        events=settings.text("stream"),
        keys=(settings.text("customer_key"), settings.text("value_key")),
        timeout=settings.seconds("timeout"),
    )
    return aggregated(sink, settings, service, tuple(meters))


KIND = SinkKind(
    "stripe",
    Option(Form.TEXT, "a name for the account, such as its id acct_…", needed=True),
    {
        "secret": Option(
            Form.SECRET, "a secret key by reference: ${STRIPE_KEY}", needed=True, fault=_fault_of_key
        ),
        "by": Option(Form.WORD, "stream or call", default="stream", words=("stream", "call")),
        "meters": Option(Form.TABLE, "field: event name of a meter"),
        "customers": Option(Form.TABLE, "subject: id of a customer, cus_…"),
        "customer_key": Option(Form.TEXT, "what meters call the customer", default=KEYS[0]),
        "value_key": Option(Form.TEXT, "what meters call the value", default=KEYS[1]),
        "api": Option(Form.URL, "a base URL", default=API),
        "stream": Option(Form.URL, "a base URL", default=EVENTS),
        "plain_http": PLAIN_HTTP,
        "timeout": TIMEOUT,
        **WINDOW_OPTIONS,
    },
    _open,
)
