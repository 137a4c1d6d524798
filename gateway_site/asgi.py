"""The ASGI application: uvicorn, daphne and runserver all serve this one."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")

import django

django.setup()

from gateway_site.application import GatewayApplication  # noqa: E402  settings come first

application = GatewayApplication()
