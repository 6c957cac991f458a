"""An orders API on Django in one file: settings, views, urls, and both of its entry points."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path

from meter_mw import current

if TYPE_CHECKING:
    from django.http import HttpRequest

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only-for-this-example"),
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["meter_mw.django.MeterMiddleware"],
    METER_POLICY=Path(__file__).with_name("meter.yaml"),
)


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def item(request: HttpRequest, item_id: int) -> JsonResponse:
    return JsonResponse({"id": item_id, "left": current().remaining("requests")})


def search(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"searched": len(request.body)})


async def put_file(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse({"name": name, "size": len(request.body)})


def export(request: HttpRequest) -> StreamingHttpResponse:
    rows = (f"order {number:05}\n" for number in range(1000))
    return StreamingHttpResponse(rows, content_type="text/plain")


def complete(request: HttpRequest) -> JsonResponse:
    tokens = len(json.loads(request.body)["text"].split())
    current().add("tokens", tokens)
    return JsonResponse({"tokens": tokens, "plan": current().plan})


urlpatterns = [
    path("health", health),
    path("v1/items/<int:item_id>", item),
    path("v1/search", search),
    path("v1/files/<path:name>", put_file),
    path("v1/export", export),
    path("v1/complete", complete),
]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
