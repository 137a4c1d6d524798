"""`manage.py probe_model`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError

from gateway_site.configuration_schema import check_model
from gateway_site.management.one_line_errors import one_line_errors
from gateway_site.migrations_state import make_ready
from providers import probe
from providers.measuring import measure
from providers.models import Deployment, Provider


class Command(BaseCommand):
    help = (
        "Asks a model what it can do (tools, JSON schema, pictures, embeddings and so on), one "
        "small request each, and keeps what is found on its deployment, which is made if need be. "
        "An operator's own word on a capability stays above it."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="PROVIDER/MODEL")
        parser.add_argument(
            "--dry-run", action="store_true", help="only tell what would be asked, and its bounds"
        )

    def handle(self, *, model: str, dry_run: bool, **_: Any) -> None:
        with one_line_errors():
            make_ready()
            deployment = _find(model)
            if dry_run:
                self.stdout.write(bounds(deployment))
                return
            findings = measure(deployment, key="probe_model")
        for name, flag in findings.flags.items():
            self.stdout.write(f"{name}: {'yes' if flag else 'no'}. {findings.evidence[name]}")
        tokens = sum(
            (each.usage.prompt_tokens + (each.usage.completion_tokens or 0))
            for each in findings.asked
            if each.usage is not None
        )
        self.stderr.write(f"{len(findings.asked)} requests, {tokens} tokens.")
        if findings.stopped:
            raise CommandError(f"Not everything was asked. {findings.stopped}")


def bounds(deployment: Deployment) -> str:
    """What a probe may cost at most."""
    return (
        f"{deployment} would be asked up to {probe.MAX_REQUESTS} times within {probe.ALL_S:g} s: "
        f"each up to {probe.PROMPT_TOKENS} tokens in (a picture may take some 3,000 more) and "
        f"{probe.ANSWER_TOKENS} out, or {probe.THINKING_TOKENS} of a model that thinks before it "
        "speaks. Nothing was asked."
    )


def _find(name: str) -> Deployment:
    provider_name, slash, model = name.partition("/")
    provider = Provider.objects.filter(name=provider_name).first()
    if not slash or provider is None:
        known = ", ".join(Provider.objects.values_list("name", flat=True))
        raise CommandError(f"Name a model as PROVIDER/MODEL; the providers are {known}.")
    row = Deployment.objects.select_related("provider").filter(provider=provider, model=model)
    deployment = row.first() or Deployment(provider=provider, model=model)
    try:
        check_model(model)
        deployment.clean_fields()
    except (ValueError, ValidationError):
        raise CommandError(f"{model!r} is not the name of a model.") from None
    return deployment
