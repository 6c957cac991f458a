"""The whole way of events: an app is served, its sink fails in the middle, and all arrives."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from meter_mw import current
from meter_mw.policy.loader import load
from meter_mw.wsgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SUBJECTS = ("acme", "globex", "initech")
_SECRETS = {"METER_KEY_SECRET": "a secret of 32 bytes ..........."} | {
    each: f"key-of-{each}" for each in SUBJECTS
}
_PATIENCE = 30.0


@Request.application
def _app(request: Request) -> Response:
    if request.path == "/ask":
        current().add("tokens", 7)
    return Response("x" * len(request.path))


def through_an_outage(
    folder: Path,
    sink: Mapping[str, object],
    environ: Mapping[str, str],
    fail: Callable[[], None],
    recover: Callable[[], None],
) -> list[dict[str, object]]:
    """Serve 45 requests of three subjects, with an outage of the sink for a third of them.

    Gives the events that were recorded, as a file beside the sink has them, once both have everything.
    """
    recorded = folder / "usage.jsonl"
    policy = {
        "version": 1,
        "service": "shop",
        "identity": {"secret": "${METER_KEY_SECRET}"},
        "keys": [{"key": f"${{{name}}}", "subject": name} for name in SUBJECTS],
        "meters": {"requests": {"count": "requests"}, "tokens": {"count": "reported"}},
        "events": {
            "journal": str(folder / "journal"),
            "sinks": [{"file": str(recorded)}, dict(sink)],
        },
    }
    middleware = MeterMiddleware(_app, load(policy, {**os.environ, **_SECRETS, **environ}))
    client = Client(middleware)
    held_up = False
    try:
        for number in range(45):
            if number == 15:
                middleware.meter.flush(_PATIENCE)
                fail()
            if number == 30:
                held_up = not middleware.meter.flush(0.3)
                recover()
            path = "/ask" if number % 4 == 0 else f"/items/{number}"
            headers = {"X-API-Key": f"key-of-{SUBJECTS[number % 3]}"}
            client.get(path, headers=headers, buffered=True)  # and so closed
        if not middleware.meter.flush(_PATIENCE):
            raise TimeoutError("not everything was delivered")
        if not held_up:
            raise AssertionError("the outage held nothing up")
    finally:
        middleware.meter.close()
    return [json.loads(line) for line in recorded.read_text().splitlines()]
