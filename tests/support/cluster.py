"""A real Redis Cluster: three masters without replicas, each a process of its own on a free port."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

from redis.crc import key_slot

from support.servers import RedisServer, free_port

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


class Cluster:
    """Three masters that share all slots evenly."""

    def __init__(self) -> None:
        self._running = ExitStack()
        lines = ("cluster-enabled yes", "cluster-node-timeout 5000", "cluster-config-file nodes.conf")
        self.nodes = [self._running.enter_context(RedisServer(*lines, port=_free_port())) for _ in range(3)]
        for number, node in enumerate(self.nodes):
            first, end = (SLOTS * each // 3 for each in (number, number + 1))
            self.tell(node, "SET-CONFIG-EPOCH", number + 1)
            self.tell(node, "ADDSLOTS", *range(first, end))
            self.tell(node, "MEET", "127.0.0.1", self.nodes[0].port)
        self.wait()

    @property
    def url(self) -> str:
        """Where its nodes listen."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def tell(self, node: RedisServer, *words: str | int) -> object:
        """Speak to one node about the cluster."""
        with node.client() as client:
            return client.execute_command("CLUSTER", *words)

    def wait(self) -> None:
        """Wait until every node knows that all slots are served."""
        end = time.monotonic() + 20
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
