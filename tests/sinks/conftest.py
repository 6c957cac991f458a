"""A real HTTP server that takes CloudEvents batches and fails as told."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Post:
    """One request as it came."""

    headers: dict[str, str]
    body: bytes
    port: int

    @property
    def events(self) -> list[dict[str, object]]:
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]

    @property
    def ids(self) -> list[object]:
        return [event["id"] for event in self.events]


@dataclass
class Reply:
    """One answer to give. `act` may do as it likes with the raw socket instead."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    act: Callable[[BaseHTTPRequestHandler], None] | None = None


class Receiver:
    """The destination: remembers each post, and answers as `answer` says."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.accepted: list[dict[str, object]] = []
        self.answer: Callable[[Post], Reply] = lambda post: Reply()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                post = Post({k.lower(): v for k, v in self.headers.items()}, body, self.client_address[1])
                receiver.posts.append(post)
                reply = receiver.answer(post)
                if 200 <= reply.status < 300 and reply.status != 207:
                    receiver.accepted += post.events
                if reply.act:
                    self.close_connection = True
                    reply.act(self)
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    @property
    def accepted_ids(self) -> list[object]:
        return [event["id"] for event in self.accepted]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()
