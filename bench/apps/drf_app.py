"""The bare app in Django REST framework: one view, which authenticates nobody and answers in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps.django_project import handler

# isort: split
# what follows reads Django's settings
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.core.handlers.wsgi import WSGIHandler
    from rest_framework.request import Request
    from rest_framework.throttling import BaseThrottle

    from bench.workload import Setting


class Item(APIView):
    """The one view; a meter gives it throttles."""

    renderer_classes = (JSONRenderer,)

    def get(self, _: Request, item_id: int) -> Response:
        """Give the item."""
        return Response({"id": item_id})


def build(_: Setting, throttles: Sequence[type[BaseThrottle]] = ()) -> WSGIHandler:
    return handler(Item.as_view(throttle_classes=list(throttles)))
