#!/usr/bin/env bash
# CPU of the gateway's process tree per request and per chunk, beside direct and a bare Python
# pass-through in the same run; key, limits and ledger are on. Only ratios within one run mean anything.
#   WORKLOADS=ns16,st16 ROUNDS=3 SECONDS_EACH=3 bench/run.sh
# Scratch files, logs and the last result stay in .bench/.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
lab=$project/.bench
workloads=${WORKLOADS:-ns16,st16,st16p,st64p}
rounds=${ROUNDS:-3}
seconds=${SECONDS_EACH:-3}
suite=${BENCH_SUITE:-$project/../shared/bench}
lock=$project/requirements/bench.txt

mkdir -p "$lab/home"
if ! cmp -s "$lock" "$lab/floor/.installed"; then
    echo "Installing what the pass-through and the load generator need into .bench/floor ..."
    "$project/.venv/bin/python" -m venv --clear "$lab/floor"
    "$lab/floor/bin/python" -m pip install -qq --require-hashes --no-deps --only-binary=:all: -r "$lock"
    cp "$lock" "$lab/floor/.installed"
fi

if [ -f "$suite/run.py" ]; then
    rm -rf "$lab/suite"
    cp -r "$suite" "$lab/suite"
    chmod -R u+w "$lab/suite"
    cd "$lab/suite"
    python3 mksystems.py
    PROJECT=$project "$lab/floor/bin/python" -B run.py --lab "$lab" --only "${SYSTEMS:-direct,pypass,ours,ours>anthropic}" \
        --workloads "$workloads" --rounds "$rounds" --seconds "$seconds" --out "$lab/result.json"
else
    "$lab/floor/bin/python" -B "$project/bench/small.py" --workloads "$workloads" \
        --rounds "$rounds" --seconds "$seconds" --out "$lab/result.json"
fi
"$lab/floor/bin/python" -B "$project/bench/ratios.py" "$lab/result.json"

# What answers cost that are told in another wire's words, streams too, beside those passed through.
if [ -f "$suite/run.py" ]; then
    "$lab/floor/bin/python" -B "$project/bench/small.py" --systems "pypass,ours,ours>anthropic,ours>ollama" \
        --workloads ns16,st16,st16p --rounds "$rounds" --seconds "$seconds" --out "$lab/translated.json"
    "$lab/floor/bin/python" -B "$project/bench/ratios.py" "$lab/translated.json"
fi
