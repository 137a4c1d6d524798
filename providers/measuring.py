"""A probe of a deployment, from its row and back to it."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connection, transaction
from django.utils.module_loading import import_string

from providers.http import HttpClient
from providers.models import Deployment
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.probe import Findings, probe
from providers.snapshot import Target, build_adapter, provider_facts


def measure(deployment: Deployment, *, key: str) -> Findings:
    """Asks what a deployment's model can do, and keeps what was found out on its row, which is made
    where it is not there yet. What stayed unknown leaves what was known.

    The requests go to the ledger as `key`'s. Takes up to `probe.ALL_S`, without a transaction and
    without a database connection. Raises DatabaseError.
    """
    facts = provider_facts(deployment.provider)
    if facts.problem is not None:
        return Findings(stopped=f"{facts.problem[:1].upper()}{facts.problem[1:]}.")
    if not connection.in_atomic_block:
        connection.close()  # minutes may pass on the network, and others may need it meanwhile
    target = Target(facts, deployment.model)
    findings = async_to_sync(_probe)(target)
    import_string(settings.PROBE_LEDGER)(target, findings.asked, key=key)
    if findings.flags:
        _keep(deployment, findings, deployment.upstream(facts.base_url))
    return findings


async def _probe(target: Target) -> Findings:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers(settings.OUTBOUND_ALLOW)))
    try:
        return await probe(build_adapter(target, client))
    finally:
        await client.aclose()


def _keep(deployment: Deployment, findings: Findings, upstream: str) -> None:
    """Only the measurement is written: the row may have been edited since it was read."""
    with transaction.atomic():
        rows = Deployment.objects.select_for_update()
        row = rows.filter(provider=deployment.provider, model=deployment.model).first()
        if row is None and not deployment._state.adding:
            return  # renamed or deleted meanwhile
        row = row or deployment
        row.keep_measurement(findings.flags, findings.evidence, upstream)
        row._change_reason = "The capabilities were measured."  # type: ignore[attr-defined]
        row.save()
