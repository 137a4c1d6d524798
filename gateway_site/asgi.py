"""The ASGI application: uvicorn, daphne and runserver all serve this one."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")

import django

django.setup()
# WhiteNoise's answers are synchronous; Django reads each whole before it sends it, and says so to
# the operator at every start. The files of a page are small enough for that.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")

from gateway_site.application import GatewayApplication  # noqa: E402  settings come first

application = GatewayApplication()
