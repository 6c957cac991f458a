"""The Django edge: one middleware for WSGI and ASGI, sync and async views."""

from meter_mw.django.middleware import MeterMiddleware

__all__ = ["MeterMiddleware"]
