"""An orders API on FastAPI: one line meters it, and `current()` reports what only the app knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from meter_mw import current
from meter_mw.asgi import MeterMiddleware

app = FastAPI(title="orders-api")
app.add_middleware(MeterMiddleware, policy=Path(__file__).with_name("meter.yaml"))


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/v1/items/{item_id}")
async def item(item_id: int) -> dict[str, object]:
    return {"id": item_id, "left": current().remaining("requests")}


@app.post("/v1/search")
async def search(request: Request) -> dict[str, int]:
    return {"searched": len(await request.body())}


@app.put("/v1/files/{name:path}")
async def put_file(name: str, request: Request) -> dict[str, object]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return {"name": name, "size": size}


@app.get("/v1/export")
def export() -> StreamingResponse:
    rows: Iterator[bytes] = (f"order {number:05}\n".encode() for number in range(1000))
    return StreamingResponse(rows, media_type="text/plain")


@app.post("/v1/complete")
def complete(prompt: dict[str, str]) -> dict[str, object]:
    tokens = len(prompt["text"].split())
    current().add("tokens", tokens)
    return {"tokens": tokens, "plan": current().plan}
