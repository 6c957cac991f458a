"""A real Redis Cluster: three masters without replicas, each a process of its own on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from redis.crc import key_slot

from support.certificates import certificate_for
from support.servers import BINARIES, RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

SLOTS = 16_384


def _free_port() -> int:
    """Give a port that is free, and so is the one that nodes of a cluster have beside it."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


def speaking_tls() -> str | None:
    """Give a server that was built with TLS, if this machine has one."""
    found = (shutil.which("redis-server", path=folder) for folder in os.get_exec_path())
    return next((path for path in found if path and b"libssl" in Path(path).read_bytes()), None)


def _tls_lines(port: int) -> list[str]:
    chain, authority = certificate_for("127.0.0.1")
    files = {"cert-file": chain, "key-file": chain, "ca-cert-file": authority}
    told = [f"tls-{name} {path}" for name, path in files.items()]
    return [f"tls-port {port}", "tls-cluster yes", "tls-auth-clients no", *told]


class Cluster:
    """Three masters that share all slots evenly."""

    def __init__(self, *, binary: str = BINARIES[0], tls: bool = False) -> None:
        self._tls_ports = [_free_port() for _ in range(3)] if tls else []
        lines = ["cluster-enabled yes", "cluster-node-timeout 5000", "cluster-config-file nodes.conf"]
        with ExitStack() as running:
            self.nodes = [
                running.enter_context(RedisServer(*lines, *more, binary=binary, port=_free_port()))
                for more in ([_tls_lines(port) for port in self._tls_ports] or [[]] * 3)
            ]
            for number, node in enumerate(self.nodes):
                first, end = (SLOTS * each // 3 for each in (number, number + 1))
                self.tell(node, "SET-CONFIG-EPOCH", number + 1)
                self.tell(node, "ADDSLOTS", *range(first, end))
                self.tell(node, "MEET", "127.0.0.1", (self._tls_ports or [self.nodes[0].port])[0])
            self.wait()
            self._running = running.pop_all()

    @property
    def url(self) -> str:
        """Where its nodes listen."""
        if self._tls_ports:
            authority = certificate_for("127.0.0.1").authority
            return f"rediss+cluster://127.0.0.1:{self._tls_ports[0]}?ssl_ca_certs={authority}"
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def tell(self, node: RedisServer, *words: str | int) -> object:
        """Speak to one node about the cluster."""
        with node.client() as client:
            return client.execute_command("CLUSTER", *words)

    def wait(self) -> None:
        """Wait until every node knows that all slots are served."""
        end = time.monotonic() + 60
        for node in self.nodes:
            while True:
                info = self.tell(node, "INFO")
                known = (
                    dict(line.split(":") for line in info.decode().split())
                    if isinstance(info, bytes)
                    else info
                )
                if known["cluster_state"] == "ok" and int(known["cluster_known_nodes"]) == len(self.nodes):
                    break
                assert time.monotonic() < end, known
                time.sleep(0.02)

    def home(self, tag: str) -> RedisServer:
        """Give the node that has a tag."""
        slot = key_slot(tag.encode())
        with self.nodes[0].client() as client:
            for first, last, owner, *_ in client.execute_command("CLUSTER", "SLOTS", NEVER_DECODE=True):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == owner[1])
        raise AssertionError(f"nobody has {slot}")

    def tag_on(self, node: RedisServer, prefix: str) -> str:
        """Give a tag that a node has."""
        names = (f"{prefix}{number}" for number in range(10_000))
        return next(name for name in names if self.home(name) is node)

    def move(self, tag: str, target: RedisServer) -> None:
        """Move the slot of a tag to another node, with all that is in it, as an operator does."""
        with self.moving(tag, target):
            pass

    @contextmanager
    def moving(self, tag: str, target: RedisServer) -> Iterator[None]:
        """Keep the slot of a tag between two nodes until the block ends."""
        slot, source = key_slot(tag.encode()), self.home(tag)
        names = {node: self.tell(node, "MYID") for node in (source, target)}
        self.tell(target, "SETSLOT", slot, "IMPORTING", names[source])
        self.tell(source, "SETSLOT", slot, "MIGRATING", names[target])
        yield
        with source.client() as client:
            while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 50):
                client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            self.tell(node, "SETSLOT", slot, "NODE", names[target])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()
