"""A TCP proxy that fails in the ways that networks do; real sockets, a thread for each direction."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Self

from support.certificates import certificate_for

if TYPE_CHECKING:
    from types import TracebackType


class FaultProxy:
    """Stands before a server, and can be made to fail while it runs.

    `cut_replies`: so many replies are not passed on; their connections are closed instead.
    `swallow`: replies vanish, connections stay.
    `double_replies`: so many replies are passed on twice.
    `delay`: seconds before each reply.
    `dribble`: seconds between two bytes of a reply.
    """

    def __init__(self, port: int, *, tls: bool = False) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self._tls is not None:
            self._tls.load_cert_chain(certificate_for("127.0.0.1").chain)
        self._target = ("127.0.0.1", port)
        self.cut_replies = 0
        self.swallow = False
        self.double_replies = 0
        self.delay = 0.0
        self.dribble = 0.0
        self.connections = 0
        self._closing = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._tls is not None:
            authority = certificate_for("127.0.0.1").authority
            return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={authority}"
        return f"redis://127.0.0.1:{self.port}/0"

    def _run(self, work, *args) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                if self._tls is not None:
                    client = self._tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._sockets |= {client, server}
            self._run(self._pass_requests, client, server)
            self._run(self._pass_replies, server, client)

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        self._end(client, server)

    def _pass_replies(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.swallow:
                    continue
                if self.cut_replies > 0:
                    self.cut_replies -= 1
                    break
                time.sleep(self.delay)
                if self.dribble:
                    for byte in data:
                        client.sendall(bytes((byte,)))
                        time.sleep(self.dribble)
                else:
                    client.sendall(data)
                if self.double_replies > 0:
                    self.double_replies -= 1
                    client.sendall(data)
        self._end(client, server)

    def _end(self, *pair: socket.socket) -> None:
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Close every connection now."""
        self._end(*self._sockets)

    def close(self) -> None:
        """Stop, and wait for the threads."""
        self._closing = True
        self._end(self._listener)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def black_hole():
    """Give the port of a listener that never accepts: its queue is full, so a SYN gets no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.05)
        yield address[1]
