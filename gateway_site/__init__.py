"""The composition root: settings, ASGI application, URLs, command line, admin site."""

__version__ = "0.1.0"
