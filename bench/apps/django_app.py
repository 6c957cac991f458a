"""The bare Django app: one view, no middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import JsonResponse

from bench.apps.django_project import handler

if TYPE_CHECKING:
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpRequest

    from bench.workload import Setting


def item(_: HttpRequest, item_id: int) -> JsonResponse:
    return JsonResponse({"id": item_id})


def build(_: Setting) -> WSGIHandler:
    return handler(item)
