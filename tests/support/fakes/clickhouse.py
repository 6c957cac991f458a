"""A ClickHouse: as much of its HTTP interface as inserts and sums of usage need, with its own errors.

What it does was compared with the real engine (26.9). An insert is taken in blocks: what came before the
block with the error stays. A number beyond its column's bits wraps without a word. A token of an insert
is known again only where the table has a window for it, and not where inserts are collected.
"""

from __future__ import annotations

import json
import re
from collections import deque
from datetime import UTC, datetime
from typing import Any

from support.fakes.vendor import Asked, Said, Vendor

USER, PASSWORD = "meter", "canary-of-clickhouse"

TABLE = {
    **dict.fromkeys(
        ("id", "source", "type", "subject", "account", "key", "route", "method", "plan", "amends", "policy"),
        "String",
    ),
    "raw": "String",
    "time": "DateTime64(6, 'UTC')",
    "status": "UInt16",
    **dict.fromkeys(("requests", "request_bytes", "response_bytes"), "Int64"),
    **dict.fromkeys(("quantities", "overage"), "Map(LowCardinality(String), Int64)"),
}
"""The columns of the table in docs/events.md."""

_SETTINGS = {
    "query",
    "insert_deduplication_token",
    "async_insert",
    "wait_for_async_insert",
    "input_format_skip_unknown_fields",
    "wait_end_of_query",
}
_INSERT = re.compile(r"INSERT INTO (\S+) \(([\w, ]+)\) FORMAT JSONEachRow")
_DESCRIBE = re.compile(r"DESCRIBE TABLE (\S+) FORMAT JSONEachRow")
_SUMS = re.compile(
    r"SELECT subject, sum\(requests\) AS requests, .*, sumMap\(quantities\) AS quantities FROM (\S+) FINAL"
    r" WHERE source = '(.*?)' AND subject IN \((.*)\)"
    r" AND time >= fromUnixTimestamp64Micro\((-?\d+), 'UTC'\)"
    r" AND time < fromUnixTimestamp64Micro\((-?\d+), 'UTC'\)"
    r" GROUP BY subject FORMAT JSONEachRow"
)
_LITERAL = re.compile(r"'((?:\\.|[^'\\])*)'")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


class Misfit(Exception):
    """An error of the server's: its code, name and words."""

    def __init__(self, status: int, code: int, name: str, words: str) -> None:
        super().__init__(words)
        self.said = failure(status, code, name, words)


def failure(status: int, code: int, name: str, words: str) -> Said:
    """Give an answer as the server words its errors."""
    text = f"Code: {code}. DB::Exception: {words}. ({name}) (version 25.8.1.1 (official build))\n"
    fields = {"X-ClickHouse-Exception-Code": str(code)}
    return Said(status, text.encode(), fields, "text/plain; charset=UTF-8")


class FakeClickhouse(Vendor):
    """Has one table. `window` is how many tokens it knows again; 0, as by default, is none.

    `block` is how many rows it takes at a time.
    """

    def __init__(self, *, window: int = 0, block: int = 1_000_000) -> None:
        super().__init__()
        self.table: dict[str, str] | None = dict(TABLE)
        self.inserted: list[dict[str, Any]] = []
        self.tokens: deque[str] = deque(maxlen=window)
        self.block = block

    def final(self) -> list[dict[str, Any]]:
        """Give the rows as a query with FINAL has them: of each key, the one that came last."""
        with self.lock:
            return list({(row["subject"], row["time"], row["id"]): row for row in self.inserted}.values())

    def answer(self, asked: Asked, fault: str | None) -> Said:
        try:
            return self._answer(asked)
        except Misfit as misfit:
            return misfit.said

    def _answer(self, asked: Asked) -> Said:
        given = (asked.headers.get("x-clickhouse-user"), asked.headers.get("x-clickhouse-key"))
        if given != (USER, PASSWORD):
            words = f"{given[0]}: Authentication failed: password is incorrect, or there is no such user"
            raise Misfit(403, 516, "AUTHENTICATION_FAILED", words)
        if strange := {name for name, _ in asked.query} - _SETTINGS:
            raise Misfit(404, 115, "UNKNOWN_SETTING", f"Unknown setting '{min(strange)}'")
        query = asked.one("query") or asked.body.decode()
        if found := _INSERT.fullmatch(query):
            return self._insert(found[1], found[2].split(", "), asked)
        if found := _DESCRIBE.fullmatch(query):
            columns = self._columns(found[1])
            return _rows([{"name": name, "type": kind} for name, kind in columns.items()])
        if found := _SUMS.fullmatch(query):
            self._columns(found[1])
            return _rows(self._sums(*found.groups()[1:]))
        raise Misfit(400, 62, "SYNTAX_ERROR", f"Syntax error: failed at position 1 ({query[:20]})")

    def _columns(self, table: str) -> dict[str, str]:
        if self.table is None or table != "meter_events":
            raise Misfit(404, 60, "UNKNOWN_TABLE", f"Table default.{table} does not exist")
        return self.table

    def _insert(self, table: str, names: list[str], asked: Asked) -> Said:
        columns = self._columns(table)
        if missing := [name for name in names if name not in columns]:
            words = f"No such column {missing[0]} in table default.{table}"
            raise Misfit(404, 16, "NO_SUCH_COLUMN_IN_TABLE", words)
        token = asked.one("insert_deduplication_token") or ""
        collects = asked.one("async_insert") == "1"
        if token in self.tokens and not collects:
            return Said(200, b"")
        lines = asked.body.split(b"\n")
        for start in range(0, len(lines), self.block):
            part = lines[start : start + self.block]
            rows = [
                self._row(line, columns, names, start + number + 1, asked) for number, line in enumerate(part)
            ]
            self.inserted += rows
        if not collects:
            self.tokens.append(token)
        return Said(200, b"")

    def _row(
        self, line: bytes, columns: dict[str, str], names: list[str], number: int, asked: Asked
    ) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            raise _unread(26, "CANNOT_PARSE_QUOTED_STRING", "Cannot parse JSON string", number) from None
        for name, value in row.items():
            if name not in names:
                if asked.one("input_format_skip_unknown_fields") == "1":
                    continue
                words = f"Unknown field found while parsing JSONEachRow format: {name}"
                raise _unread(117, "INCORRECT_DATA", words, number)
            row[name] = _value(columns[name], name, value, number)
        return dict(row)

    def _sums(self, source: str, asked: str, start: str, end: str) -> list[dict[str, Any]]:
        subjects = {re.sub(r"\\(.)", r"\1", each) for each in _LITERAL.findall(asked)}
        found: dict[str, dict[str, Any]] = {}
        for row in self.final():
            moment = datetime.strptime(row["time"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
            time_us = int(moment.timestamp()) * 1_000_000 + moment.microsecond
            within = int(start) <= time_us < int(end)
            if row["subject"] not in subjects or row["source"] != source or not within:
                continue
            sums = found.setdefault(
                row["subject"],
                {"requests": 0, "request_bytes": 0, "response_bytes": 0, "quantities": {}},
            )
            for name in ("requests", "request_bytes", "response_bytes"):
                sums[name] += row[name]
            for name, units in row["quantities"].items():
                sums["quantities"][name] = sums["quantities"].get(name, 0) + units
        return [{"subject": subject, **sums} for subject, sums in found.items()]


def _rows(rows: list[dict[str, Any]]) -> Said:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return Said(200, text.encode(), {}, "application/x-ndjson; charset=UTF-8")


def _unread(code: int, name: str, words: str, number: int) -> Misfit:
    return Misfit(400, code, name, f"{words}: (at row {number})\n: While executing the insert of canary-row")


def _value(kind: str, name: str, value: object, number: int) -> object:
    at = f"(while reading the value of key {name})"
    if kind == "String" and not isinstance(value, str):
        raise _unread(26, "CANNOT_PARSE_QUOTED_STRING", f"Cannot parse quoted string {at}", number)
    if kind.startswith("DateTime64") and not (isinstance(value, str) and _TIME.fullmatch(value)):
        raise _unread(41, "CANNOT_PARSE_DATETIME", f"Cannot read DateTime {at}", number)
    if kind in ("UInt16", "Int64"):
        if not isinstance(value, int):
            words = f"Cannot parse input: expected '\"' before: '{value}', canary-row {at}"
            raise _unread(27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", words, number)
        bits = 16 if kind == "UInt16" else 64
        wrapped = value % 2**bits
        return wrapped - 2**bits if kind == "Int64" and wrapped >= 2**63 else wrapped
    if kind.startswith("Map") and not (
        isinstance(value, dict) and all(isinstance(each, int) for each in value.values())
    ):
        raise _unread(563, "CANNOT_READ_MAP_FROM_TEXT", f"Cannot read Map from text {at}", number)
    return value
