"""A policy that is wrong stops the server, with the reason, wherever the middleware is made."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

APPS = {
    "added": """
from starlette.applications import Starlette
from meter_mw.asgi import MeterMiddleware
app = Starlette()
app.add_middleware(MeterMiddleware, policy="meter.yaml")
""",
    "around": """
from starlette.applications import Starlette
from meter_mw.asgi import MeterMiddleware
app = MeterMiddleware(Starlette(), policy="meter.yaml")
""",
    "wsgi": """
from flask import Flask
from meter_mw.wsgi import MeterMiddleware
app = Flask(__name__)
app.wsgi_app = MeterMiddleware(app.wsgi_app, policy="meter.yaml")
""",
}
SERVERS = {
    "uvicorn": ["uvicorn", "app:app", "--port", "0"],
    "hypercorn": ["hypercorn", "app:app", "--bind", "127.0.0.1:0"],
    "gunicorn": ["gunicorn", "app:app", "--bind", "127.0.0.1:0"],
}


@pytest.mark.parametrize(
    ("app", "server"),
    [
        ("added", "uvicorn"),
        ("around", "uvicorn"),
        ("added", "hypercorn"),
        ("around", "hypercorn"),
        ("wsgi", "gunicorn"),
    ],
)
def test_a_wrong_policy_stops_the_server(app: str, server: str, tmp_path: Path) -> None:
    """The process ends with an error that names the mistake; it does not serve errors instead."""
    (tmp_path / "app.py").write_text(APPS[app])
    (tmp_path / "meter.yaml").write_text(
        "version: 1\nservice: shop\nidentity: {secret: '${METER_KEY_SECRET}'}\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "METER_KEY_SECRET"}
    ended = subprocess.run(
        [sys.executable, "-m", *SERVERS[server]],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode != 0 or server == "hypercorn"  # which ends with 0 whatever happened
    assert "METER_KEY_SECRET" in ended.stdout + ended.stderr
