"""The `clickhouse` sink: usage events into a table of ClickHouse, over its HTTP interface.

It creates nothing; docs/events.md has the table. Two lines hold against duplicates: a batch that is sent
again has its token again, which the server knows for some time where the table has a window for that; and
a ReplacingMergeTree leaves one row of an id, at once for queries with FINAL.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import msgspec

from meter_mw.ledger.records import BUILT_IN, Record, Unreadable, read
from meter_mw.sinks.answers import Answer
from meter_mw.sinks.base import Delivered, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import PLAIN_HTTP, TIMEOUT, URL, Form, Option, Service, Settings, SinkKind
from meter_mw.sinks.poster import Poster
from meter_mw.sinks.sifting import sift

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_log = logging.getLogger("meter_mw.sinks")

_TEXTS = ("id", "source", "type", "subject", "account", "key", "route", "method", "plan", "amends", "policy")
COLUMNS = (*_TEXTS, "time", "status", *BUILT_IN, "quantities", "overage", "raw")
"""What the table has to have; it may have more, with defaults."""

_COLLECT = {"async_insert": "1", "wait_for_async_insert": "1"}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", re.ASCII)
_MOST_ASKED = 500
_LONGEST = 200

# ErrorCodes.cpp of ClickHouse: what says that a row does not fit its table. All else passes, or is the
# operator's: tables, rights, memory, too many parts, replicas.
_MISFITS = frozenset(
    {6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 321, 349, 467, 469, 499, 563, 675, 676}
)
_UNKNOWN_FIELD = "Unknown field"  # the one of code 117 that says nothing of the row
_IN_DOUBT = frozenset({159, 209, 319})  # timeouts, and UNKNOWN_STATUS_OF_INSERT


class _Column(msgspec.Struct):
    name: str


class _Sums(msgspec.Struct):
    subject: str
    requests: int
    request_bytes: int
    response_bytes: int
    quantities: dict[str, int]


_Document = TypeVar("_Document", _Column, _Sums)


class ClickhouseSink:
    """Inserts batches with a token of their ids. `source` is whose usage `totals` gives.

    With `collect` the server gathers the inserts of many writers before it answers (async_insert).
    Raises `ValueError` for a URL that cannot be used.
    """

    horizon = None

    def __init__(
        self,
        url: str,
        source: str,
        *,
        table: str = "meter_events",
        user: str = "default",
        secret: str = "",
        collect: bool = False,
        timeout: float = 10.0,
        max_batch: int = 10_000,
    ) -> None:
        self._poster = Poster(url, timeout=timeout)
        self._source = source
        self._table = table
        self._collect = collect
        self._fields = {"X-ClickHouse-User": user, "X-ClickHouse-Key": secret}
        self._is_checked = False
        self.max_batch = max_batch
        self.name = f"clickhouse:{self._poster.name}/{table}"

    def __repr__(self) -> str:
        return f"ClickhouseSink({self._poster.origin + '/…'!r}, {self._table!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Insert the batch, in halves where a row of it does not fit."""
        entries = [_read(payload) for payload in batch]
        records = [entry for entry in entries if isinstance(entry, Record)]
        fault = self._check() if records else None
        stored = iter([fault] * len(records) if fault else sift(records, self._insert, _judge))
        return [next(stored) if isinstance(entry, Record) else entry for entry in entries]

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Give what the table has of this service's usage, each id once."""
        found: dict[tuple[str, str], int] = {}
        for first in range(0, len(subjects), _MOST_ASKED):
            asked = ", ".join(map(_literal, subjects[first : first + _MOST_ASKED]))
            sums = ", ".join(f"sum({name}) AS {name}" for name in BUILT_IN)
            query = (
                f"SELECT subject, {sums}, sumMap(quantities) AS quantities FROM {self._table} FINAL"  # noqa: S608
                f" WHERE source = {_literal(self._source)} AND subject IN ({asked})"
                f" AND time >= fromUnixTimestamp64Micro({start_us}, 'UTC')"
                f" AND time < fromUnixTimestamp64Micro({end_us}, 'UTC')"
                " GROUP BY subject FORMAT JSONEachRow"
            )
            for row in self._ask(_Sums, query):
                units = {name: getattr(row, name) for name in BUILT_IN} | row.quantities
                found |= {(row.subject, name): each for name, each in units.items() if each}
        return found

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _check(self) -> Outcome | None:
        """Make sure once that the table is there with its columns; give what events wait for."""
        if self._is_checked:
            return None
        try:
            columns = self._ask(_Column, f"DESCRIBE TABLE {self._table} FORMAT JSONEachRow")
        except ConnectionError as error:
            return Retry(reason=str(error))
        found = {column.name for column in columns}
        missing = [name for name in COLUMNS if name not in found]
        if missing:
            reason = (
                f"the table {self._table} has no column {', '.join(missing)}; docs/events.md has the table"
            )
            _log.error("%s: %s", self.name, reason)
            return Retry(reason=reason)
        self._is_checked = True
        return None

    def _ask(self, kind: type[_Document], query: str) -> list[_Document]:
        """Give the rows of an answer. Raises `ConnectionError` with what the server said."""
        target = self._target({"wait_end_of_query": "1"})
        answer = self._poster.post(query.encode(), self._fields, target=target)
        if not isinstance(answer, Answer) or not answer.accepts:
            raise ConnectionError(f"{self.name}: {_reason(answer)}")
        try:
            # Not strict, as 64 bits come as text from servers that quote them.
            return msgspec.json.Decoder(kind, strict=False).decode_lines(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConnectionError(f"{self.name}: the answer cannot be read: {error!s:.200}") from None

    def _insert(self, records: Sequence[Record]) -> Answer | Retry | Unknown:
        parameters = {
            "query": f"INSERT INTO {self._table} ({', '.join(COLUMNS)}) FORMAT JSONEachRow",
            "insert_deduplication_token": _token(records),
            # Said either way: a profile of the server may have its own mind. Collected inserts have no
            # use of a token where the table is not replicated.
            **(
                {"async_insert": "1", "wait_for_async_insert": "1"}
                if self._collect
                else {"async_insert": "0"}
            ),
            "input_format_skip_unknown_fields": "0",
        }
        body = b"\n".join(_row(record) for record in records)
        return self._poster.post(body, self._fields, target=self._target(parameters))

    def _target(self, parameters: Mapping[str, str]) -> str:
        target = self._poster.target
        return f"{target}{'&' if '?' in target else '?'}{urlencode(parameters)}"


def _read(payload: bytes) -> Record | Permanent:
    try:
        return read(payload)
    except Unreadable as reason:
        return Permanent(str(reason))


def _token(records: Sequence[Record]) -> str:
    """Give what names a batch: the same for the same ids in their order."""
    return sha256("\n".join(record.id for record in records).encode()).hexdigest()


def _row(record: Record) -> bytes:
    row = record.row
    time_us = row["time_us"]
    moment = _EPOCH + timedelta(microseconds=time_us if isinstance(time_us, int) else 0)
    overage = row["overage"]
    return json.dumps(
        {
            **{name: row[name] or "" for name in _TEXTS},
            "time": f"{moment:%Y-%m-%d %H:%M:%S.%f}",
            "status": row["status"] or 0,
            **{name: row[name] for name in BUILT_IN},
            "quantities": {name: units for name, units in record.quantities.items() if name not in BUILT_IN},
            "overage": json.loads(overage) if isinstance(overage, str) else {},
            "raw": row["raw"],
        },
        ensure_ascii=False,
    ).encode()


def _literal(text: str) -> str:
    """Give a text as SQL has it (ClickHouse takes escapes with a backslash)."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _judge(answer: Answer, records: Sequence[Record]) -> Mapping[int, Outcome]:
    """Give what an answer says of each row; a misfit among several says nothing of any."""
    told = answer.fields.get("x-clickhouse-exception-code", "")
    code = int(told) if told.isdecimal() else 0
    said: Outcome
    if answer.accepts:
        said = Delivered()
    elif answer.status == 413 or (code in _MISFITS and _UNKNOWN_FIELD.encode() not in answer.body):
        if len(records) > 1:
            return {}
        said = Permanent(_reason(answer))
    elif code in _IN_DOUBT:
        said = Unknown(_reason(answer), answer.retry_after)
    else:
        said = Retry(answer.retry_after, _reason(answer))
    return dict.fromkeys(range(len(records)), said)


def _reason(answer: Answer | Retry | Unknown) -> str:
    """Give what the server said, up to where it quotes the row itself."""
    if not isinstance(answer, Answer):
        return answer.reason
    line = answer.body.partition(b"\n")[0].decode("utf-8", "replace")
    return f"HTTP {answer.status} {line.partition(' before: ')[0][:_LONGEST]}".rstrip()


def _fault_of_table(text: str) -> str | None:
    if _TABLE.fullmatch(text):
        return None
    return "the table is a name, or database.name, of letters, digits and _"


def _open(settings: Settings, service: Service) -> ClickhouseSink:
    return ClickhouseSink(
        settings.text("clickhouse"),
        service.source,
        table=settings.text("table"),
        user=settings.text("user"),
        secret=settings.get_text("secret") or "",
        collect=settings.flag("collect"),
        timeout=settings.seconds("timeout"),
        max_batch=settings.count("batch"),
    )


KIND = SinkKind(
    "clickhouse",
    URL,
    {
        "table": Option(
            Form.TEXT,
            "a table such as meter_events, or database.meter_events",
            default="meter_events",
            fault=_fault_of_table,
        ),
        "user": Option(Form.TEXT, "the name of a user", default="default"),
        "secret": Option(Form.SECRET, "a password by reference: ${CLICKHOUSE_PASSWORD}"),
        "collect": Option(Form.FLAG, "true, to have the server gather small inserts of many writers"),
        "plain_http": PLAIN_HTTP,
        "timeout": TIMEOUT,
        "batch": Option(Form.COUNT, "rows in one insert, 1 to 100000", default=10_000, least=1, most=100_000),
    },
    _open,
)
