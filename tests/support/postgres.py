"""A real PostgreSQL 16 from the wheel `pgserver`, on a free port, stopped by its pid.

Only the wheel's binaries are used: its own module makes a system user when it is root's, and opens the
folders above to everybody. PostgreSQL refuses to be root's, so there it is run as an existing user.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

from support.servers import free_port

_PATIENCE = 30.0
_PROGRAMS = Path("pginstall") / "bin"


def _user() -> pwd.struct_passwd | None:
    """Give whom the server is to run as, None where the tests' own user will do."""
    if os.geteuid() != 0:
        return None
    users = {each.pw_name: each for each in pwd.getpwall() if each.pw_uid != 0}
    return users.get("nobody") or next(iter(users.values()))


def _can_run(binary: Path) -> bool:
    try:
        subprocess.run([binary, "--version"], check=True, capture_output=True, **_as_user())
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _as_user() -> dict[str, int]:
    user = _user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid}


@functools.cache
def _binaries() -> Path:
    """Give the folder of PostgreSQL's programs; a copy's where its user cannot reach the wheel (/root)."""
    spec = find_spec("pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    wheel = Path(spec.submodule_search_locations[0])
    if not _can_run(wheel / _PROGRAMS / "postgres"):
        copy = Path(tempfile.gettempdir()) / f"meter-postgres-{os.geteuid()}"
        if not copy.exists():
            _copy(wheel, copy)
        wheel = copy / wheel.name
    return wheel / _PROGRAMS


def _copy(wheel: Path, folder: Path) -> None:
    half = Path(tempfile.mkdtemp(prefix="meter-postgres-"))
    for each in (wheel, wheel.with_name("pgserver.libs")):  # programs look for libraries beside the wheel
        shutil.copytree(each, half / each.name, symlinks=True)
    half.chmod(0o755)
    try:
        half.rename(folder)
    except OSError:  # another process of the suite was faster
        shutil.rmtree(half)


class PostgresServer:
    """A server without a password, for connections from this machine; without fsync, as a test needs none."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="meter-pg-"))
        self._data = self._folder / "data"
        self._data.mkdir(mode=0o700)
        if user := _user():
            for each in (self._folder, self._data):
                os.chown(each, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases: dict[str, str] = {}
        self._run("initdb", "-U", "meter", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self.start()

    def _command(self, name: str, *options: str) -> list[str]:
        return [str(_binaries() / name), "-D", str(self._data), *options]

    def _run(self, name: str, *options: str) -> None:
        command = self._command(name, *options)
        done = subprocess.run(command, cwd=self._folder, capture_output=True, check=False, **_as_user())
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 40,
            "shared_buffers": "16MB",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", *options),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **_as_user(),
            )
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < end, (self._folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Give a plain connection of its own, for a test to look behind the sink."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="meter", dbname=database, autocommit=True
        )

    def url(self, database: str) -> str:
        """Give the address of a database, as a policy has it."""
        return f"postgresql+psycopg://meter:canary-password@127.0.0.1:{self.port}/{database}"

    def database(self, options: str = "") -> str:
        """Give the name of an empty database: the same one each time, as a new one is slow."""
        name = self._databases.get(options)
        with self.connect() as connection:
            if name is None:
                name = self._databases[options] = f"ledger_{len(self._databases)}"
                connection.execute(f"CREATE DATABASE {name} {options}".encode())
                return name
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
        with self.connect(name) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return name

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks off what runs and ends in order, SIGQUIT is as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_PATIENCE)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it as by a crash, and start it on the same port with what was committed."""
        self.stop(how)
        self.start()

    def remove(self) -> None:
        """End it and remove its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)
