"""The bare Starlette app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from bench.workload import Setting


async def item(request: Request) -> JSONResponse:
    return JSONResponse({"id": request.path_params["item_id"]})


def build(_: Setting) -> Starlette:
    return Starlette(routes=[Route("/v1/items/{item_id:int}", item)])
