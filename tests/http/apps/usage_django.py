"""A Django project with the usage endpoint as a view; the policy comes from METER_POLICY."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="usage",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["meter_mw.django.MeterMiddleware"],
    LOGGING_CONFIG=None,
)
django.setup()

from meter_mw import usage  # noqa: E402 - after the settings


def hello(request: HttpRequest) -> HttpResponse:
    """Say something of a known length."""
    return HttpResponse("hello")


urlpatterns = [
    path("hello", hello),
    path("usage", usage.django_view),
    path("mounted/", usage.django_view),
]

app = WSGIHandler()
asgi = ASGIHandler()
