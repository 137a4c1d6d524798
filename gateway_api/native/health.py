"""`GET /livez` and `GET /readyz`."""

from __future__ import annotations

import asyncio

from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.resources import journal
from providers.database import in_database

READY_TIMEOUT_S = 5.0
_REPORT = {
    "type": "object",
    "properties": {
        "status": {"type": "string"},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


class LiveView(AsyncAPIView):
    """The process answers. Asks nothing of the database."""

    open_to_all = True
    permission_classes = []

    @extend_schema(
        operation_id="livez",
        summary="Liveness",
        responses={200: OpenApiResponse(_REPORT, description="Alive.")},
        auth=[],
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        return json_answer({"status": "ok"})


class ReadyView(AsyncAPIView):
    """The process can serve: database, migrations and journal, each named."""

    open_to_all = True
    permission_classes = []

    @extend_schema(
        operation_id="readyz",
        summary="Readiness",
        responses={
            200: OpenApiResponse(_REPORT, description="Ready."),
            503: OpenApiResponse(_REPORT, description="Not ready; the checks say why."),
        },
        auth=[],
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        checks = await _check_database()
        checks["journal"] = "ok" if journal().is_writable() else "full or not writable"
        ready = all(result == "ok" for result in checks.values())
        return json_answer(
            {"status": "ok" if ready else "unavailable", "checks": checks},
            status=200 if ready else 503,
            headers=[] if ready else [("retry-after", "5")],
        )


async def _check_database() -> dict[str, str]:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            missing = await in_database(_unapplied_migrations)
    except (DatabaseError, InterfaceError):
        return {"database": "unreachable", "migrations": "unknown"}
    except TimeoutError:
        return {"database": "no answer in time", "migrations": "unknown"}
    migrations = f"not applied: {', '.join(missing)}" if missing else "ok"
    return {"database": "ok", "migrations": migrations}


def _unapplied_migrations() -> list[str]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
