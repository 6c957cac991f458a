"""An orders API on Flask: one line meters it, and `current()` reports what only the app knows."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, request

from meter_mw import current
from meter_mw.wsgi import MeterMiddleware

app = Flask(__name__)
app.wsgi_app = MeterMiddleware(app.wsgi_app, policy=Path(__file__).with_name("meter.yaml"))  # type: ignore[method-assign]


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/v1/items/<int:item_id>")
def item(item_id: int) -> dict[str, object]:
    return {"id": item_id, "left": current().remaining("requests")}


@app.post("/v1/search")
def search() -> dict[str, int]:
    return {"searched": len(request.get_data())}


@app.put("/v1/files/<path:name>")
def put_file(name: str) -> dict[str, object]:
    return {"name": name, "size": sum(len(chunk) for chunk in request.stream)}


@app.get("/v1/export")
def export() -> Response:
    rows = (f"order {number:05}\n" for number in range(1000))
    return Response(rows, mimetype="text/plain")


@app.post("/v1/complete")
def complete() -> dict[str, object]:
    tokens = len(request.get_json()["text"].split())
    current().add("tokens", tokens)
    return {"tokens": tokens, "plan": current().plan}
