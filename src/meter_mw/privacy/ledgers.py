"""What a ledger holds of a subject, and how its identity is taken out of it while its amounts stay.

Rule 1: it is one transaction: half an erasure there is none.
Rule 2: what is kept is what is billed: events of usage and corrections, and roll-ups. Announcements of a
subject (thresholds, signals) are of no amount, and go.
Rule 3: every table is looked at, by the names of its columns; one with a subject in it is never passed over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, delete, func, select, update

from meter_mw.ledger.tables import events, metadata, quantities
from meter_mw.model import ADJUSTMENT_EVENT, REQUEST_EVENT
from meter_mw.privacy.held import Held, Whose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection, Table

    from meter_mw.ledger.database import Database
    from meter_mw.model import SubjectId

_BILLED = (REQUEST_EVENT, ADJUSTMENT_EVENT)
_IDENTITY = ("key", "ip", "user_agent")
"""What of an event's data says who it was, beside the subject and an account that is its alone."""

_AT_ONCE = 500

_ERASE_EVENT = (
    update(events)
    .where(events.c.id == bindparam("of"))
    .values(key=None, account=bindparam("named"), raw=bindparam("event"))
)


def tables_of_subjects() -> list[Table]:
    """Give the tables that have a subject, in a fixed order."""
    return [table for table in metadata.sorted_tables if "subject" in table.columns]


def _is(table: Table, whose: Whose) -> ColumnElement[bool]:
    return and_(table.c.subject == whose.subject, table.c.source == whose.source)


class LedgerPlace:
    """What one service has in a ledger, which others may share."""

    remains = ""

    def __init__(self, database: Database, source: str) -> None:
        self.name = f"ledger {database.name}"
        self._database = database
        self._source = source

    def held(self, subject: str) -> Iterator[Held]:
        """Give every row that has the subject, and the quantities of its events."""
        whose = Whose(self._source, subject)
        with self._database.reading() as connection:
            for table in tables_of_subjects():
                for row in connection.execute(select(table).where(_is(table, whose))).mappings():
                    yield Held(self.name, table.name, dict(row))
            mine = select(events.c.id).where(_is(events, whose))
            for row in connection.execute(
                select(quantities).where(quantities.c.event_id.in_(mine))
            ).mappings():
                yield Held(self.name, quantities.name, dict(row))

    def obstacle(self, subject: str) -> str:  # noqa: ARG002 - a place is asked
        """Give nothing."""
        return ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:
        """Put the tombstone in place of the subject, and of an account that is nobody else's."""
        whose = Whose(self._source, subject)
        with self._database.connected() as connection:
            is_sqlite = connection.dialect.name == "sqlite"
            if is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete = ON")  # what is freed is overwritten
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            accounts = _own_accounts(connection, whose)
            count = _forget_announcements(connection, whose)
            count += _rewrite_events(connection, whose, tombstone, accounts)
            for table in tables_of_subjects():
                if table is not events:
                    count += _rename(connection, table, whose, tombstone, accounts)
            connection.commit()
            if is_sqlite:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # and the old pages go
        return count


def _own_accounts(connection: Connection, whose: Whose) -> set[str]:
    """Give the accounts that no other subject has: such a name says who it was."""
    mine: set[str] = set()
    others: set[str] = set()
    for table in tables_of_subjects():
        if "account" in table.columns:
            named = _is(table, whose) & (table.c.account != "")
            mine |= set(connection.scalars(select(table.c.account).where(named).distinct()))
    for table in tables_of_subjects():
        if "account" in table.columns and mine:
            shared = table.c.account.in_(mine) & ~_is(table, whose)
            others |= set(connection.scalars(select(table.c.account).where(shared).distinct()))
    return mine - others


def _forget_announcements(connection: Connection, whose: Whose) -> int:
    done = connection.execute(delete(events).where(_is(events, whose), events.c.type.not_in(_BILLED)))
    return done.rowcount


def _rewrite_events(connection: Connection, whose: Whose, tombstone: SubjectId, accounts: set[str]) -> int:
    count, rows = 0, select(events.c.id, events.c.account, events.c.raw).where(_is(events, whose))
    while found := connection.execute(rows.limit(_AT_ONCE)).all():
        erased = [
            {
                "of": event_id,
                "named": tombstone if account in accounts else account,
                "event": _erased(raw, tombstone, is_own=account in accounts),
            }
            for event_id, account, raw in found
        ]
        connection.execute(_ERASE_EVENT.values(subject=tombstone), erased)
        count += len(found)
    return count


def _erased(raw: str, tombstone: SubjectId, *, is_own: bool) -> str:
    """Give an event without what says who it was; it is not the recorded one any more, and proves nothing."""
    event = json.loads(raw)
    event["subject"] = tombstone
    data = {name: value for name, value in event["data"].items() if name not in _IDENTITY}
    event["data"] = data | ({"account": tombstone} if is_own and "account" in data else {})
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _rename(
    connection: Connection, table: Table, whose: Whose, tombstone: SubjectId, accounts: set[str]
) -> int:
    """Give rows the name of the tombstone; those that are one then are added up.

    So are two whose accounts are both erased, and what the tombstone has of an earlier erasure.
    """
    mine = _is(table, whose)
    # In one step, as a forwarder may be adding to the same rows.
    taken = delete(table).where(mine).returning(*table.columns)
    rows = [dict(row) for row in connection.execute(taken).mappings()]
    if not rows:
        return 0
    for row in rows:
        row["subject"] = tombstone
        if row.get("account") in accounts:
            row["account"] = tombstone
    keys = [column.name for column in table.primary_key]
    sums = [column.name for column in table.columns if not column.primary_key]
    others = select(func.count()).select_from(table).where(_is(table, Whose(whose.source, tombstone)))
    may_meet = len(accounts) > 1 or bool(connection.scalar(others))
    for row in rows:
        same = and_(*(table.c[name] == row[name] for name in keys))
        added = {name: table.c[name] + row[name] for name in sums}
        if not (may_meet and connection.execute(update(table).where(same).values(added)).rowcount):
            connection.execute(table.insert().values(row))
    return len(rows)
