"""A bare WSGI app whose limits are tried; how many are inside of it at once is counted over all processes."""

from __future__ import annotations

import fcntl
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from apps import subject
from meter_mw.wsgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

_STEP = 7_000
_INSIDE = subject.HOME / "inside"


def _changed(by: int) -> int:
    with _INSIDE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        count = int(file.read() or 0) + by
        file.truncate(0)
        file.write(str(count))
        file.flush()
        return count


def _inside() -> int:
    count = _changed(1)
    time.sleep(0.03)
    _changed(-1)
    return count


def _chunks(size: int) -> Iterator[bytes]:
    for begun in range(0, size, _STEP):
        yield b"x" * min(_STEP, size - begun)


def _serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    size = int(parse_qs(environ["QUERY_STRING"]).get("size", ["0"])[0])
    match environ["PATH_INFO"]:
        case "/v1/sized":
            start_response("200 OK", [("Content-Length", str(size))])
            return _chunks(size)
        case "/v1/chunked":
            start_response("200 OK", [])
            return _chunks(size)
        case "/v1/drain":
            body = b"%d" % len(environ["wsgi.input"].read())
        case "/v1/inside":
            body = b"%d" % _inside()
        case "/v1/fail":
            raise RuntimeError("the app fails")
        case _:
            body = b"x"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


app = MeterMiddleware(_serve, policy=subject.POLICIES / "main.yaml")
