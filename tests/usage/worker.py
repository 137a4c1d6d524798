"""A worker to be killed, or to work beside another: `python -m tests.usage.worker MODE …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from chat.types import TokenCounts
from tests.usage.requests import opened, serve
from usage.journal import Journal
from usage.lines import Progress


def write_until_killed(directory: str) -> None:
    """Tells each opened and each closed id on stdout; leaves every third request open."""
    journal = Journal(Path(directory), "doomed", 1 << 30)
    number = 0
    while True:
        line = opened()
        journal.open(line)
        os.write(1, f"opened {line.id}\n".encode())
        number += 1
        if number % 3 == 0:
            journal.progress(Progress(id=line.id, tokens_output_estimate=5, attempts=2))
        else:
            journal.close(line.end(status="success", counts=TokenCounts(input=10, output=1)))
            os.write(1, f"closed {line.id}\n".encode())


def record_beside_another(directory: str, number: str) -> None:
    """Serves requests in the same hour, of the same key and model, and records them bit by bit;
    adopts whatever the directory holds."""
    import django

    django.setup()
    from usage.recorder import Recorder

    journal = Journal(Path(directory), f"peer-{os.getpid()}", 1 << 30)
    recorder = Recorder(journal)
    recorder.adopt_orphans(seconds=20)
    for _ in range(int(number) // 10):
        serve(journal, 10)
        recorder.flush(seconds=20)
    recorder.stop()


def report() -> None:
    """Migrates and prints `records requests cost cost interrupted` of the database."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db.models import Sum

    from usage.models import HourlyUsage, UsageRecord

    call_command("migrate", verbosity=0)
    hours = HourlyUsage.objects.aggregate(Sum("requests"), Sum("cost_usd"))
    cost = UsageRecord.objects.aggregate(Sum("cost_usd"))["cost_usd__sum"]
    cut_off = UsageRecord.objects.filter(status="interrupted").count()
    print(
        UsageRecord.objects.count(),
        hours["requests__sum"] or 0,
        cost or 0,
        hours["cost_usd__sum"] or 0,
        cut_off,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", directory]:
            write_until_killed(directory)
        case ["record", directory, number]:
            record_beside_another(directory, number)
        case ["report"]:
            report()
