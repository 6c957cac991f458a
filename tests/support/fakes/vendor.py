"""What the clouds of vendors have in common: an HTTP API that can fail before and after the deed."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request as it came; the names of the headers in lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def one(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


@dataclass(frozen=True)
class Said:
    """An answer; a body of None is none, one of bytes is sent as it is."""

    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


class Vendor:
    """Serves `answer` at a URL. `faults` are what befalls the next POSTs, one each; None is none.

    `Said`: that is answered and nothing done. "cut": the connection ends and nothing is done.
    "lost": all is done, and then the connection ends. A subclass may know more words.
    While it `is_down` every request is a 503 and nothing is done.
    """

    def __init__(self) -> None:
        self.faults: list[Said | str | None] = []
        self.is_down = False
        self.asked: list[Asked] = []
        self.lock = threading.RLock()
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                vendor.serve(self)

            def do_GET(self) -> None:
                vendor.serve(self)

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

    def answer(self, asked: Asked, fault: str | None) -> Said:
        """Do what is asked."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Asked]:
        return [each for each in self.asked if each.method == "POST"]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        asked = Asked(handler.command, parts.path, query, headers, body)
        with self.lock:
            self.asked.append(asked)
            fault = self.faults.pop(0) if self.faults and asked.method == "POST" else None
            if self.is_down:
                said: Said | None = Said(503)
            elif isinstance(fault, Said):
                said = fault
            elif fault == "cut":
                said = None
            else:
                said = self.answer(asked, fault)
        if said is None or fault == "lost":
            handler.close_connection = True
            return
        text = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        text = b"" if said.body is None else text
        handler.send_response(said.status)
        for name, value in said.headers.items():
            handler.send_header(name, value)
        if said.body is not None:
            handler.send_header("Content-Type", said.content_type)
        if said.status != 204:
            handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
