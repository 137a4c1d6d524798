"""manage.py commands, called in this process or started as one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from django.core.management import call_command

ROOT = Path(__file__).resolve().parents[2]

SAMPLE = """
providers:
  - {name: openai, kind: openai, base_url: "http://127.0.0.1:9001/v1", api_key: sk-test}
  - {name: claude, kind: anthropic, base_url: "http://127.0.0.1:9002", api_key: sk-ant-test,
     timeout_s: 60, max_retries: 2}
deployments:
  - {provider: openai, model: gpt-4o-mini,
     price: {input: 0.15, output: 0.60, cached_input: 0.075},
     capabilities: {tools: false}, context_window: 128000}
routes:
  - {name: smart, strategy: fallback, targets: [{provider: openai, model: gpt-4o-mini},
     {provider: claude, model: claude-3-5-haiku-latest}]}
keys:
  - {name: ci, secret: "gw-test-0123456789abcdef0123456789abcdef", models: ["smart", "openai/*"],
     rpm: 600, tpm: 100000, max_parallel: 8, budget_usd: "5.00", budget_period: month, admin: false}
"""
"""The example of the contract, but for tools."""


class Printed(NamedTuple):
    out: str
    err: str


def run(command: str, *arguments: str) -> Printed:
    out, err = StringIO(), StringIO()
    call_command(command, *arguments, stdout=out, stderr=err)
    return Printed(out.getvalue(), err.getvalue())


def start(url: str, data_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process that works on the database at `url`."""
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "ABSTRACTCORE_DATA_DIR": str(data_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Printed:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return Printed(out, err)
