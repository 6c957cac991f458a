"""A Stripe that meters: strict, forgetful after a day, and failing as Stripe documents it.

Both of its APIs, with sessions, duplicates, cancelling, checks that come after the answer, and summaries
that lag behind. Time is `now`, seconds since 1970; nothing happens by itself.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY = "sk_test_canary_of_stripe"
DAY = 86_400
SESSION_S = 900
MOST_IN_A_REQUEST = 100
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_FIELD = re.compile(r"payload\[(\w+)\]")


@dataclass
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Taken:
    """A meter event that counts."""

    event_name: str
    identifier: str
    customer: str
    value: int
    timestamp: float
    received: float


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.answer = Answer(status, {"error": {"code": code, "message": message}}, headers or {})


class FakeStripe:
    """Serves both APIs at one address. `faults` are what befalls the next requests, one each.

    `None` is none; a number is answered instead of an answer, and nothing is done; "cut" hangs up before
    anything is done, "lost" after all is; "500 kept" answers 500 after all is done; "busy" says that
    another call for the same customer and meter is under way.
    """

    def __init__(
        self, *event_names: str, customers: tuple[str, ...] = ("cus_Acme", "cus_Globex", "cus_Initech")
    ) -> None:
        self.now = 0.0
        self.faults: list[int | str | None] = []
        self.is_down = False
        self.retry_after = "7"
        self.poison = ""
        """An identifier that the stream refuses, and with it the whole request."""
        self.meters = {name: f"mtr_{number}" for number, name in enumerate(event_names)}
        self.customers = {"cus_Acme", "cus_Globex", "cus_Initech"}
        self.taken: list[Taken] = []
        self.errors: list[tuple[str, str]] = []
        """What was refused after the answer: code and identifier, as in an error report."""
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.sessions: dict[str, float] = {}
        self.values: dict[str, set[tuple[str, int]]] = defaultdict(set)
        """Every customer and value that an identifier ever came with."""
        self._known: dict[str, float] = {}
        self._answered: dict[str, Answer] = {}
        self._summarised = 0
        self._lock = threading.RLock()
        self._serve()

    # -- what tests ask

    def totals(self) -> dict[tuple[str, str], int]:
        """Give what counts, by customer and event name."""
        sums: Counter[tuple[str, str]] = Counter()
        for each in self.taken:
            sums[each.customer, each.event_name] += each.value
        return dict(sums)

    def identifiers(self) -> list[str]:
        return [each.identifier for each in self.taken]

    def settle(self) -> None:
        """Have the summaries catch up with what was taken."""
        self._summarised = len(self.taken)

    def end_sessions(self) -> None:
        """Have every session end before its time."""
        self.sessions = dict.fromkeys(self.sessions, self.now)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- the second API

    def _session(self, headers: dict[str, str], body: bytes) -> Answer:
        self._check_second(headers, body)
        self._check_key(headers)
        token = f"token_{len(self.sessions)}"
        self.sessions[token] = self.now + SESSION_S
        return Answer(
            200,
            {
                "object": "v2.billing.meter_event_session",
                "id": f"mes_{token}",
                "authentication_token": token,
                "created": _rfc_3339(self.now),
                "expires_at": _rfc_3339(self.now + SESSION_S),
                "livemode": False,
            },
        )

    def _stream(self, headers: dict[str, str], body: bytes) -> Answer:
        document = self._check_second(headers, body)
        until = self.sessions.get(headers.get("authorization", "").removeprefix("Bearer "))
        if until is None:
            raise Refusal(401, "unauthorized", "no such session")
        if self.now >= until:
            raise Refusal(401, "billing_meter_event_session_expired", "The session has expired.")
        events = document.get("events")
        if set(document) != {"events"} or not isinstance(events, list) or not events:
            raise Refusal(400, "invalid_fields", "events: expected a list")
        if len(events) > MOST_IN_A_REQUEST:
            raise Refusal(400, "invalid_fields", f"events: {len(events)} are more than 100")
        for each in events:
            _check_stream_event(each)
            if each["identifier"] == self.poison:
                raise Refusal(400, "invalid_fields", "as told")
        for each in events:
            self._check_later(each)
        return Answer(200, {})

    def _check_second(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        if headers.get("content-type") != "application/json" or "stripe-version" not in headers:
            raise Refusal(400, "invalid_request", "expected application/json and Stripe-Version")
        document = json.loads(body)
        if not isinstance(document, dict):
            raise Refusal(400, "invalid_request", "expected an object")
        return document

    def _check_later(self, each: dict[str, Any]) -> None:
        """Check as the stream does: the answer has been given, and a mistake is only reported."""
        identifier, payload = each["identifier"], each["payload"]
        moment = datetime.fromisoformat(each["timestamp"]).timestamp()
        customer, value = payload.get("stripe_customer_id"), payload.get("value", "")
        code = None
        if each["event_name"] not in self.meters:
            code = "no_meter"
        elif customer is None:
            code = "meter_event_no_customer_defined"
        elif customer not in self.customers:
            code = "meter_event_customer_not_found"
        elif not re.fullmatch(r"[1-9]\d*", value):
            code = "meter_event_invalid_value"
        elif moment < self.now - 35 * DAY:
            code = "timestamp_too_far_in_past"
        elif moment > self.now + 300:
            code = "timestamp_in_future"
        if code:
            self.errors.append((code, identifier))
        elif not self._is_known(identifier):
            self._take(Taken(each["event_name"], identifier, str(customer), int(value), moment, self.now))
        self.values[identifier].add((str(customer), int(value)))

    # -- the first API

    def _event(self, headers: dict[str, str], body: bytes) -> Answer:
        form = self._form(headers, body)
        payload = {match[1]: text for name, text in form.items() if (match := _FIELD.fullmatch(name))}
        others = {name: text for name, text in form.items() if not _FIELD.fullmatch(name)}
        if unknown := set(others) - {"event_name", "identifier", "timestamp"}:
            raise Refusal(400, "parameter_unknown", f"Received unknown parameter: {unknown.pop()}")
        name, identifier = others.get("event_name", ""), others.get("identifier", "")
        if not 0 < len(identifier) <= 100 or not 0 < len(name) <= 100:
            raise Refusal(400, "parameter_invalid", "identifier or event_name is too long, or missing")
        if not re.fullmatch(r"\d+", others.get("timestamp", "")):
            raise Refusal(400, "parameter_invalid_integer", "Invalid integer: timestamp")
        moment = int(others["timestamp"])
        if not self.now - 35 * DAY <= moment <= self.now + 300:
            raise Refusal(400, "timestamp_invalid", "Expected a timestamp of the last 35 days")
        if name not in self.meters:
            raise Refusal(400, "resource_missing", f"No active meter found for event name {name}")
        customer, value = payload.get("stripe_customer_id"), payload.get("value", "")
        if customer not in self.customers or not re.fullmatch(r"-?\d+", value):
            raise Refusal(400, "invalid_payload", "no such customer, or not a whole number")
        self.values[identifier].add((customer, int(value)))
        if self._is_known(identifier):
            message = f"An event already exists with identifier {identifier}."
            raise Refusal(400, "", message, {"Stripe-Should-Retry": "false"})
        self._take(Taken(name, identifier, customer, int(value), moment, self.now))
        return Answer(200, {"object": "billing.meter_event", "event_name": name, "identifier": identifier})

    def _adjustment(self, headers: dict[str, str], body: bytes) -> Answer:
        form = self._form(headers, body)
        if set(form) != {"event_name", "type", "cancel[identifier]"} or form["type"] != "cancel":
            raise Refusal(400, "parameter_unknown", "expected event_name, type and cancel")
        identifier = form["cancel[identifier]"]
        found = [each for each in self.taken if each.identifier == identifier]
        if not found:
            raise Refusal(400, "resource_missing", f"No such meter event: {identifier}")
        if self.now - found[0].received > DAY:
            raise Refusal(400, "out_of_window", "Too late: received 24 hours ago")
        self.taken.remove(found[0])
        return Answer(
            200, {"object": "billing.meter_event_adjustment", "status": "pending", "type": "cancel"}
        )

    def _form(self, headers: dict[str, str], body: bytes) -> dict[str, str]:
        if headers.get("content-type") != "application/x-www-form-urlencoded":
            raise Refusal(400, "invalid_request", "expected a form")
        pairs = parse_qsl(body.decode(), strict_parsing=True, keep_blank_values=True)
        if len(dict(pairs)) < len(pairs):
            raise Refusal(400, "invalid_request", "a parameter is there twice")
        return dict(pairs)

    def _list(self, path: str, query: dict[str, str]) -> Answer:
        if path == "/v1/billing/meters":
            rows = [
                {"id": meter, "event_name": name, "status": "active"} for name, meter in self.meters.items()
            ]
        else:
            names = {meter: name for name, meter in self.meters.items()}
            rows = self._summaries(names[path.split("/")[4]], query)
        after = query.get("starting_after")
        begin = next((index + 1 for index, row in enumerate(rows) if row["id"] == after), 0)
        most = min(int(query.get("limit", "10")), 2)  # short pages, so that they are turned
        return Answer(
            200, {"object": "list", "data": rows[begin : begin + most], "has_more": begin + most < len(rows)}
        )

    def _summaries(self, name: str, query: dict[str, str]) -> list[dict[str, Any]]:
        start, end = int(query["start_time"]), int(query["end_time"])
        if start % 60 or end % 60 or end <= start:
            raise Refusal(400, "invalid_request", "expected whole minutes")
        value = sum(
            each.value
            for each in self.taken[: self._summarised]
            if (each.event_name, each.customer) == (name, query["customer"]) and start <= each.timestamp < end
        )
        return [{"id": "mtrsum_1", "aggregated_value": float(value), "start_time": start, "end_time": end}]

    # -- what both share

    def _check_key(self, headers: dict[str, str]) -> None:
        if headers.get("authorization") != f"Bearer {KEY}":
            raise Refusal(401, "api_key_invalid", "Invalid API Key provided")

    def _is_known(self, identifier: str) -> bool:
        return identifier in self._known and self.now - self._known[identifier] < DAY

    def _take(self, event: Taken) -> None:
        self._known[event.identifier] = self.now
        self.taken.append(event)

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        routes = {
            "/v2/billing/meter_event_session": self._session,
            "/v2/billing/meter_event_stream": self._stream,
            "/v1/billing/meter_events": self._event,
            "/v1/billing/meter_event_adjustments": self._adjustment,
        }
        try:
            if parts.path.startswith("/v1/"):
                self._check_key(headers)
            if method == "GET":
                return self._list(parts.path, dict(parse_qsl(parts.query)))
            return routes[parts.path](headers, body)
        except Refusal as refusal:
            return refusal.answer

    def respond(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """Answer one request; None where the connection is to be cut."""
        with self._lock:
            self.requests.append((urlsplit(target).path, headers, body))
            fault = 503 if self.is_down else self.faults.pop(0) if self.faults else None
            key = headers.get("idempotency-key")
            if key is not None and key in self._answered:
                return self._answered[key]
            if fault == "cut":
                return None
            if fault == "busy":
                answer = Refusal(429, "lock_timeout", "as told", {"Stripe-Should-Retry": "true"}).answer
            elif isinstance(fault, int):
                after = {} if self.is_down else {"Retry-After": self.retry_after}
                answer = Refusal(fault, "as_told", "as told", after).answer
            else:
                answer = self._answer(method, target, headers, body)
                if fault == "500 kept":
                    answer = Answer(500, {"error": {"type": "api_error", "message": "as told"}})
            # An answer is kept once the work began, failures among them, for at least 24 hours.
            if key is not None and (answer.status == 200 or answer.status == 500):
                self._answered[key] = answer
            return None if fault == "lost" else answer

    def _serve(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                self._do(self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                self._do(b"")

            def _do(self, body: bytes) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = fake.respond(self.command, self.path, headers, body)
                if answer is None:
                    self.close_connection = True
                    return
                text = json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Type": "application/json"}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()


def _check_stream_event(each: object) -> None:
    if not isinstance(each, dict) or set(each) != {"event_name", "identifier", "timestamp", "payload"}:
        raise Refusal(400, "invalid_fields", "an event has event_name, identifier, timestamp and payload")
    texts = [each["event_name"], each["identifier"], each["timestamp"]]
    payload = each["payload"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(payload, dict):
        raise Refusal(400, "invalid_fields", "texts are expected")
    if not all(isinstance(value, str) for value in payload.values()):
        raise Refusal(400, "invalid_fields", "the values of a payload are strings")
    if not _RFC_3339.fullmatch(each["timestamp"]) or not 0 < len(each["identifier"]) <= 100:
        raise Refusal(400, "invalid_fields", "expected RFC 3339, and an identifier of at most 100 characters")


def _rfc_3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
