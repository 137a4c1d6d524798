"""`abstractcore-server`: checks, then serves."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from ipaddress import ip_address

from gateway_site import __version__

LEVELS = ("debug", "info", "warning", "error", "critical")


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Exits with 1 and one sentence when something stands in the way."""
    options = _parser().parse_args(argv)
    _put_into_environment(options)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")

    from django.core.exceptions import ImproperlyConfigured

    try:
        import django

        django.setup()
        from gateway_site.startup import NotReady, prepare

        try:
            prepare(loopback=_is_loopback(options.host), migrate=options.migrate)
        except NotReady as problem:
            sys.exit(f"abstractcore-server: {problem}")
    except ImproperlyConfigured as error:
        sys.exit(f"abstractcore-server: {error}")
    _serve(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="abstractcore-server",
        description="A self-hosted, OpenAI-compatible gateway to every LLM provider.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind (default: %(default)s)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="port (default: %(default)s)")
    parser.add_argument("--provider", help="default provider for models named without one")
    parser.add_argument("--model", help="default model for requests that name none")
    parser.add_argument("--workers", type=_workers, default=1, help="processes (default: 1)")
    parser.add_argument("--reload", action="store_true", help="restart when the code changes")
    parser.add_argument("--migrate", action="store_true", help="migrate a Postgres database first")
    parser.add_argument("--log-level", choices=LEVELS, help="default: info")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return port


def _workers(text: str) -> int:
    workers = int(text)
    if workers < 1:
        raise argparse.ArgumentTypeError("at least one worker is needed")
    return workers


def _put_into_environment(options: argparse.Namespace) -> None:
    """Settings are read from the environment, in this process and in its workers."""
    named = {
        "ABSTRACTCORE_DEFAULT_PROVIDER": options.provider,
        "ABSTRACTCORE_DEFAULT_MODEL": options.model,
        "ABSTRACTCORE_LOG_LEVEL": options.log_level,
        "ABSTRACTCORE_BOUND_HOST": _as_host(options.host),
    }
    os.environ.update({name: value for name, value in named.items() if value})


def _as_host(host: str) -> str:
    """The bound address as a Host header spells it; empty for one that stands for all."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return ""
    return f"[{address}]" if address.version == 6 else str(address)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(options: argparse.Namespace) -> None:
    import uvicorn
    from django.conf import settings

    uvicorn.run(
        "gateway_site.asgi:application",
        http="gateway_site.protocol:GuardedProtocol",
        ws="none",  # nothing here speaks it: who asks to upgrade is answered in HTTP
        host=options.host,
        port=options.port,
        workers=options.workers,
        reload=options.reload,
        log_level=settings.LOG_LEVEL.lower(),
        log_config=None,  # Django has configured logging
        access_log=False,
        # Whoever connects is who asks: local mode must not believe a header about that.
        proxy_headers=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=15,
    )
