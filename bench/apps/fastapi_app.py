"""The bare FastAPI app; `dependencies` are what a meter adds to its route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.params import Depends

    from bench.workload import Setting


async def item(item_id: int) -> dict[str, int]:
    return {"id": item_id}


def build(_: Setting, dependencies: Sequence[Depends] = ()) -> FastAPI:
    app = FastAPI()
    app.get("/v1/items/{item_id}", dependencies=dependencies)(item)
    return app
