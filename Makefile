# `make install` and `make run` are all a newcomer needs; `make check test` is what CI runs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Not `?=`: some shells export HOST as the machine's name. `make run HOST=0.0.0.0 PORT=9000` still works.
HOST   := 127.0.0.1
PORT   := 8000

# A user's own pip settings may not send the packages elsewhere; the rest of them (proxy, cache, index) stays in force.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIREMENT PIP_CONSTRAINT PIP_NO_BINARY PYTHONHOME PYTHONPATH
# Wheels only: building from source would run code, and fetch build tools, that no hash covers.
LOCKED := $(BIN)/python -m pip install -qq --require-hashes --no-deps --only-binary=:all:

# A virtual environment that was moved, left half-made, or lost its Python is made anew.
ifneq ($(shell test -x $(BIN)/python && cat $(VENV)/.made-for 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.made-for
endif

.PHONY: install dev models schema-suite run test test-sqlite test-postgres check format bench lock clean help

help:
	@sed -n 's/^##\([a-z]*\)/\1\t/p' $(MAKEFILE_LIST)

##install: make .venv with the locked packages, the local model and the abstractcore-server command
install: $(VENV)/.installed

$(VENV)/.made-for:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "AbstractCore Server needs Python 3.11 or newer and found no $(PYTHON); name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "AbstractCore Server needs Python 3.11 or newer and $(PYTHON) is older; name another: make PYTHON=python3.12" >&2; exit 1; }
	@rm -f $(VENV)/.installed $(VENV)/.dev
	@$(PYTHON) -m venv --clear $(VENV) || { \
	    echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@printf %s '$(CURDIR)' > $@

$(VENV)/.installed: $(VENV)/.made-for requirements/build.txt requirements/runtime.txt requirements/local.txt pyproject.toml
	@echo "Installing into $(VENV) (about a minute the first time) ..."
	@$(LOCKED) -r requirements/build.txt -r requirements/runtime.txt -r requirements/local.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --no-index --editable .
	@# An editable install compiles nothing, and where Python may not write beside the sources every
	@# command would compile them all again.
	@$(BIN)/python -m compileall -qq chat events_app gateway_api gateway_site keys providers sessions_app tools_app usage
	@touch $@

dev: $(VENV)/.dev

$(VENV)/.dev: $(VENV)/.installed requirements/dev.txt
	@$(LOCKED) -r requirements/dev.txt
	@touch $@

# torch stands in no lock file (requirements/lock.sh says why). A build for CUDA is some gigabytes; for the CPU one:
# put pip's options for the place it comes from behind the version, in TORCH.
TORCH ?= torch==2.13.0

##models: also install what transformers' and MLX models need, for the tests of tests/local_models
models: $(VENV)/.models

$(VENV)/.models: $(VENV)/.dev requirements/models.txt
	@$(LOCKED) -r requirements/models.txt
	@$(BIN)/python -m pip install -qq --only-binary=:all: $(TORCH)
	@touch $@

##schema-suite: fetch the JSON-Schema-Test-Suite, which comes in jsonschema's source, for tests/gateway_api/test_schema_suite.py
schema-suite: dev
	@sed -n '/^jsonschema==/,/[^\\]$$/p' requirements/dev.txt > .schema-suite.txt
	@$(BIN)/python -m pip download -qq --no-deps --no-binary=:all: --require-hashes -r .schema-suite.txt -d .schema-suite
	@rm .schema-suite.txt

##run: install what is missing, make the database and the first admin, serve on http://127.0.0.1:8000
run: install
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py ensure_admin
	@exec $(BIN)/abstractcore-server --host $(HOST) --port $(PORT)

# Side by side: each of them waits for servers more than it computes, and one after the other they come close
# to the 25 minutes that CI has.
##test: the whole suite on SQLite, and what touches the database on Postgres
test: dev
	@$(MAKE) --no-print-directory --jobs=2 test-sqlite test-postgres

test-sqlite: dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-postgres: dev
	TEST_DATABASE=postgres $(BIN)/python -m pytest -m "not once" $(PYTEST_ARGS)

##check: lint, format, types, layers, migrations, deployment settings
check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.environment makemigrations --check --dry-run
	$(BIN)/python -m tests.environment check --deploy --fail-level WARNING

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

##bench: CPU per request and per chunk, beside a bare Python pass-through in the same run
bench: install
	bench/run.sh

##lock: write requirements/*.txt anew from pyproject.toml (needs uv; LOCK_ARGS=--upgrade for newer versions)
lock:
	requirements/lock.sh $(LOCK_ARGS)

##clean: remove what the targets above made, but not the data directory
clean:
	rm -rf $(VENV) .bench .schema-suite build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
