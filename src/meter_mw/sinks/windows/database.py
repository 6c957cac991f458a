"""The database of windows: its tables, and transactions that are on the disk when they end.

Every use opens it anew: processes share it, and a fork inherits nothing of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILE = "windows.db"
_PATIENCE = 5.0
_VERSION = 1
_SCHEMA = """
CREATE TABLE book (token TEXT NOT NULL, floor_us INTEGER NOT NULL, newest_us INTEGER NOT NULL);
CREATE TABLE windows (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  subject TEXT NOT NULL,
  start_us INTEGER NOT NULL,
  end_us INTEGER NOT NULL,
  due_us INTEGER NOT NULL,
  last_us INTEGER NOT NULL,
  events INTEGER NOT NULL,
  sums TEXT NOT NULL,
  record BLOB,
  batch INTEGER,
  sent REAL,
  done INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX open_windows ON windows (subject, start_us) WHERE record IS NULL;
CREATE INDEX due_windows ON windows (due_us) WHERE record IS NULL;
CREATE INDEX sealed_windows ON windows (batch, number) WHERE record IS NOT NULL AND NOT done;
CREATE INDEX old_windows ON windows (end_us);
CREATE VIEW waiting AS
  SELECT number, due_us, record, batch, sent FROM windows WHERE record IS NOT NULL AND NOT done;
CREATE TABLE parts (event TEXT PRIMARY KEY, window INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX parts_of_windows ON parts (window);
"""


class Database:
    """The database in `folder`, made when it is first written to.

    What is raised is `OSError`, with what SQLite said; nothing has changed then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _FILE

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Open it to look something up; None where there is nothing yet."""
        if not self._path.exists():
            yield None
            return
        with self._opened() as tables:
            yield tables if _version(tables) else None

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open it for one transaction, which no other process shares."""
        if not self._path.exists():
            self._make()
        with self._opened() as tables:
            if not _version(tables):
                tables.execute("PRAGMA journal_mode = WAL")
            tables.execute("BEGIN IMMEDIATE")
            try:
                if not _version(tables):
                    _create(tables)
                yield tables
                tables.execute("COMMIT")
            except BaseException:
                # Some failures, a full disk among them, have ended the transaction already.
                if tables.in_transaction:
                    tables.execute("ROLLBACK")
                raise

    def _make(self) -> None:
        """Make the file, and have the name of its folder on the disk; SQLite sees to that of the file."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        fd = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(
                sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)
            ) as tables:
                # A commit is on the disk when it returns, as the journal may delete the event then.
                tables.execute("PRAGMA synchronous = FULL")
                yield tables
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error), str(self._path)) from error


def _version(tables: sqlite3.Connection) -> int:
    ((version,),) = tables.execute("PRAGMA user_version")
    return int(version)


def _create(tables: sqlite3.Connection) -> None:
    """Lay the tables out, with a token that no other database has.

    It stands in the ids of records, so that two machines, or a database that was deleted and made anew,
    give no id twice.
    """
    for statement in filter(str.strip, _SCHEMA.split(";")):
        tables.execute(statement)
    tables.execute("INSERT INTO book VALUES (?, 0, 0)", (secrets.token_hex(4),))
    tables.execute(f"PRAGMA user_version = {_VERSION}")
