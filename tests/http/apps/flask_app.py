"""The subject in Flask, with every variant of the meter."""

from __future__ import annotations

import contextvars
import functools
import gzip
import threading
import time
from typing import TYPE_CHECKING

from flask import Flask, Response, request, send_file
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from apps import subject
from meter_mw import current
from meter_mw.wsgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PART = 16 * 1024
"""What is read of a body at a time."""


def _paused(stream: subject.Stream) -> Iterator[bytes]:
    for chunk in stream.chunks:
        stream.on_chunk()
        yield chunk
        time.sleep(stream.pause)


def _native(reply: subject.Reply) -> Response:
    if isinstance(reply, subject.Stream):
        response = Response(_paused(reply), mimetype=reply.media_type)
        if reply.length is not None:
            response.content_length = reply.length
        return response
    if isinstance(reply, subject.File):
        return send_file(reply.path, conditional=True)
    response = Response(reply.body, reply.status)
    response.headers.remove("Content-Type")
    for name, value in reply.fields:
        if name == "Content-Length":
            response.headers[name] = value
        else:
            response.headers.add(name, value)
    return response


def _endpoint(name: str, function: Callable[[subject.Call], subject.Reply]) -> Callable[..., Response]:
    def endpoint(**parameters: str) -> Response:
        subject.ran(name, request.path)
        body = b"" if name == "unread" else request.get_data()
        return _native(function(subject.Call(parameters, request.args, body)))

    return endpoint


def threaded() -> Response:
    thread = threading.Thread(target=contextvars.copy_context().run, args=(current().add, "tokens", 3))
    thread.start()
    thread.join()
    return Response(b"thread")


def tasked() -> Response:
    """A task has no match here: a thread that is handed the exchange takes its place."""
    thread = threading.Thread(target=current().add, args=("tokens", 4))
    thread.start()
    thread.join()
    return Response(b"task")


def after() -> Response:
    """Report when the response is closed, which is after its last byte."""
    response = Response(b"after")
    response.call_on_close(functools.partial(current().add, "tokens", 6))
    return response


def _parts(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(PART):
        yield chunk


def drain() -> Response:
    """Read a body as it comes, and say how long it was."""
    return Response(str(sum(map(len, _parts(request.stream)))).encode())


def duplex() -> Response:
    """Send back each part of a body as it comes."""
    return Response(_parts(request.stream))


def inner() -> Flask:
    """Give the unmetered app."""
    app = Flask(__name__)
    for name, methods, template, function in subject.ENDPOINTS:
        rule = template.replace("{", "<").replace("}", ">")
        app.add_url_rule(rule, name, _endpoint(name, function), methods=list(methods))
    for endpoint in (threaded, tasked, after):
        name = {"threaded": "thread", "tasked": "task", "after": "after"}[endpoint.__name__]
        app.add_url_rule(f"/v1/tokens/{name}", name, endpoint)
    app.add_url_rule("/v1/drain", "drain", drain, methods=["POST"])
    app.add_url_rule("/v1/duplex", "duplex", duplex, methods=["POST"])
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


def _zipping(app: WSGIApplication) -> WSGIApplication:
    """Compress every answer where the client takes it, as a middleware would."""

    def zipped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "gzip" not in environ.get("HTTP_ACCEPT_ENCODING", ""):
            return app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], *rest: object) -> Callable[[bytes], object]:
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            return start_response(status, [*kept, ("Content-Encoding", "gzip")], *rest)

        body = app(environ, start)
        try:
            return [gzip.compress(b"".join(body))]
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    return zipped


def _metered(app: WSGIApplication, policy: str, **options: object) -> WSGIApplication:
    return MeterMiddleware(app, policy=subject.POLICIES / f"{policy}.yaml", **options)


@subject.built_once
def variant(name: str) -> WSGIApplication:
    """Build the app as `name` says: how the meter is installed, or else which policy it has."""
    main = functools.partial(_metered, policy=name)
    match name:
        case "added":
            app = inner()
            app.wsgi_app = main(app.wsgi_app)
            return app
        case "own-body":
            return main(inner(), refusal=subject.refusal_body)
        case "twice":
            return main(_metered(inner(), name))
        case "gzip-inside":
            return main(_zipping(inner()))
        case "gzip-outside":
            return _zipping(main(inner()))
        case "mount-inside":
            return DispatcherMiddleware(Flask("empty"), {"/api": main(inner())})
        case "mount-outside":
            return main(DispatcherMiddleware(Flask("empty"), {"/api": inner()}))
        case _:
            return main(inner())


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Hand a request to the variant that its field X-Variant names."""
    subject.check_outside()
    return variant(environ.get("HTTP_X_VARIANT", "main"))(environ, start_response)


variant("main")  # built as apps build theirs: when the server imports them, in its main thread
