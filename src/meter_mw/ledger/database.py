"""The database of a ledger: its address, its connections, and the tables in it.

Rule 1: a transaction takes a bounded time: after the timeout the connection is hung up. Bringing the
        tables of an earlier release forward may take an hour.
Rule 2: a process uses connections that it opened itself; those of its parent are left as they are.
Rule 3: tables are made and brought forward by one process at a time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, inspect, make_url, select
from sqlalchemy.exc import ArgumentError

from meter_mw.ledger.migrating import create, migrate
from meter_mw.ledger.tables import VERSION, schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine

SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg")

_LOCK = int.from_bytes(sha256(b"meter_mw.ledger").digest()[:8], "big", signed=True)
_MIGRATION = 3600.0
"""Seconds."""

_CACHE_KIB = 32 * 1024
"""Pages of an SQLite ledger that a connection may keep: roll-ups of many series are changed all over."""

_LEADS = ("host", "port", "dbname", "service", "options")
"""The parameters of a PostgreSQL address that say where it leads."""

_inherited: list[object] = []
"""Connections of a parent: closing one in a child would end it for the parent too, or unlock its file."""


class WrongVersion(Exception):
    """The ledger belongs to a later release; says which is needed."""


def fault_of_address(text: str) -> str | None:
    """Say what is wrong with an address, or give None."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return "the address cannot be read; expected sqlite:///usage.db or postgresql://user@host/database"
    if url.get_backend_name() == "sqlite":
        if url.host or url.database in (None, "", ":memory:"):
            return "an SQLite ledger is a file: sqlite:///usage.db, or sqlite:////var/lib/usage.db"
        return "an SQLite address has no parameters" if url.query else None
    if not url.database:
        return "the address names no database; expected postgresql://user@host/database"
    try:
        import psycopg  # noqa: F401, PLC0415 - only here is it known to be needed
    except ImportError:
        return "PostgreSQL needs psycopg: pip install 'meter-mw[postgres]'"
    return None


def within(text: str, folder: Path) -> str:
    """Give an address with its file, if it is one, as the policy's folder has it."""
    head, slashes, path = text.partition(":///")
    return f"{head}{slashes}{folder.absolute() / path}" if head == "sqlite" else text


class Database:
    """The connections of one process to a ledger. Used by one thread at a time.

    `timeout` in seconds bounds a transaction, and how long one waits for another writer.
    """

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        self._url = _dialect(make_url(address))
        self._timeout = timeout
        self._engine: Engine | None = None
        self._pid = os.getpid()
        self._is_prepared = False
        self._driven: Any = None
        self.was_cut_off = False
        """Whether the last transaction took longer than the timeout."""

    @property
    def name(self) -> str:
        """Where it leads, without credentials, the same after a change of those."""
        url = self._url
        if url.get_backend_name() == "sqlite":
            return f"sqlite:///{url.database}"
        led = "&".join(f"{name}={url.query[name]}" for name in _LEADS if name in url.query)
        mark = f"#{sha256(led.encode()).hexdigest()[:8]}" if led else ""
        port = f":{url.port}" if url.port else ""
        return f"postgresql://{url.host or ''}{port}/{url.database}{mark}"

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """Give a connection to a ledger whose tables are there; what is not committed is undone.

        Raises WrongVersion, and the errors of SQLAlchemy and of the drivers.
        """
        engine = self._opened()
        try:
            if not self._is_prepared:
                self._prepare(engine)
            with self._cut_off(self._timeout), engine.connect() as connection:
                yield connection
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one moment of the ledger, and changes nothing."""
        with self.connected() as connection:
            connection.exec_driver_sql(_SNAPSHOT[connection.dialect.name])
            yield connection

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self._forget_parent()
        if self._engine is not None:
            self._engine.dispose()
        self._engine, self._is_prepared, self._driven = None, False, None

    def _prepare(self, engine: Engine) -> None:
        with self._cut_off(self._timeout), engine.connect() as connection:
            version = _version(connection)
        if version != VERSION:
            with self._cut_off(_MIGRATION), engine.connect() as connection:
                _prepare(connection)
        self._is_prepared = True

    def _opened(self) -> Engine:
        self._forget_parent()
        if self._engine is None:
            if self._url.get_backend_name() == "sqlite":
                self._engine = _sqlite_engine(self._url, self._timeout)
            else:
                seconds = max(2, int(self._timeout))  # libpq takes whole ones, 2 at least
                self._engine = create_engine(self._url, connect_args={"connect_timeout": seconds})
                event.listen(self._engine, "do_connect", self._connect)
        return self._engine

    def _forget_parent(self) -> None:
        if self._pid != os.getpid():
            _inherited.append((self._engine, self._driven))
            self._pid = os.getpid()
            self._engine, self._is_prepared, self._driven = None, False, None

    def _connect(self, dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
        """Connect as SQLAlchemy would, and keep what to hang up: its first questions may go unanswered."""
        self._driven = dialect.connect(*arguments, **options)
        return self._driven

    @contextlib.contextmanager
    def _cut_off(self, seconds: float) -> Iterator[None]:
        """Hang up when so many seconds are over; what waits for an answer fails then."""
        self.was_cut_off = False

        def hang_up() -> None:
            self.was_cut_off = self._driven is not None
            with contextlib.suppress(Exception):
                twin = socket.socket(fileno=os.dup(self._driven.pgconn.socket))
                with twin:
                    twin.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, hang_up)
        timer.daemon = True
        # No thread can be started while the interpreter ends.
        with contextlib.suppress(RuntimeError):
            timer.start()
        try:
            yield
        finally:
            timer.cancel()


_SNAPSHOT = {
    "sqlite": "BEGIN",
    "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
}


def _dialect(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _sqlite_engine(url: URL, timeout: float) -> Engine:
    # Only a new file is touched: to close another would take this process's locks from it (POSIX).
    with contextlib.suppress(OSError):  # what is wrong, connecting will tell
        os.close(os.open(str(url.database), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    engine = create_engine(url, connect_args={"timeout": timeout / 2, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settle(driven: Any, _record: object) -> None:
        driven.isolation_level = None  # transactions begin where we say so
        driven.execute("PRAGMA journal_mode = WAL")
        driven.execute("PRAGMA synchronous = FULL")  # delivered means on the disk
        driven.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    return engine


def _version(connection: Connection) -> int | None:
    """Give the version of the tables, None where there are none; the transaction is over then."""
    is_there = inspect(connection).has_table(schema.name)
    version = connection.scalar(select(schema.c.version)) if is_there else None
    connection.rollback()
    return version


def _prepare(connection: Connection) -> None:
    """Make tables of this version, one process at a time. Raises WrongVersion for those of a later one."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    if not inspect(connection).has_table(schema.name):
        create(connection)
    version = connection.scalar(select(schema.c.version)) or 0
    if version > VERSION:
        connection.rollback()
        raise WrongVersion(
            f"the ledger has tables of version {version}, and this release writes version {VERSION};"
            " use the release that the ledger was last used with, or a later one"
        )
    migrate(connection, version)
    connection.commit()
