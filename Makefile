# Every target does its own set-up: a fresh Debian with Python 3.11, git and make is enough.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Dozens of processes are started here: each would compile everything anew where somebody has set this.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready
MEMBERS := libs/cauce libs/contracts libs/seedwork libs/testsupport apps/accounts apps/mailing apps/music_discovery

.PHONY: help setup demo demo-crash up infra accounts mailing music-discovery discovery test prove check format bench lock sbom clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

$(READY): requirements.lock scripts/setup.sh $(addsuffix /pyproject.toml,$(MEMBERS))
	@PYTHON=$(PYTHON) VENV=$(VENV) scripts/setup.sh $(MEMBERS)

setup: $(READY) ## Create .venv with the locked dependencies

demo: $(READY) ## Play the article's story on real servers and show what happened
	@$(BIN)/python -m demo

demo-crash: $(READY) ## Kill the broker, which comes back empty, and show what is left
	@$(BIN)/python -m demo.crash

up: $(READY) ## The whole system, staying up (Ctrl-C drains)
	@$(BIN)/cauce dev

infra: $(READY) ## Only the servers: Valkey, PostgreSQL, the mail sink
	@$(BIN)/cauce dev --only-servers

accounts: $(READY) ## accounts-ms in this terminal
	@exec $(BIN)/python -m accounts

mailing: $(READY) ## mailing-ms in this terminal
	@exec $(BIN)/python -m mailing

music-discovery: $(READY) ## music-discovery-ms in this terminal
	@exec $(BIN)/python -m music_discovery

discovery: music-discovery

# Beside tests/, a file that has a long form; the workers of `make test` mostly wait for what other processes do.
LONGER := apps/accounts/tests/test_accounts_process.py

test: $(READY) ## All tests, on real servers which the tests start themselves
	@$(BIN)/python -m cauce.dev.private_folder .cauce
	@scripts/redis7.sh .cauce/redis7
	@$(BIN)/python -m pytest --numprocesses 5 --dist loadfile --max-worker-restart 2

prove: $(READY) ## What the tests repeat, in its long form: as many kills as their hazards name, on every database
	@PROVE=1 $(BIN)/python -m pytest tests $(LONGER) --numprocesses 3 --dist loadfile --max-worker-restart 2

check: $(READY) ## Format, lint, types, layers
	@echo '· format'; $(BIN)/ruff format --check --quiet . || { echo 'run: make format'; exit 1; }
	@echo '· lint';   $(BIN)/ruff check --quiet .
	@echo '· types';  $(BIN)/basedpyright --level error
	@echo '· layers'; $(BIN)/lint-imports --no-cache
	@echo 'check: all passed'

format: $(READY) ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

# The peers get an environment of their own, so that the locked one stays as it is.
$(BENCH_READY): benchmarks/requirements.lock | $(READY)
	@echo '· the peers of the benchmarks, in $(BENCH_VENV)'
	@$(BIN)/python -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r benchmarks/requirements.lock
	@touch $@

WHICH ?= dispatch
bench: $(BENCH_READY) ## A benchmark beside its peers, as ratios: WHICH=dispatch, streams or durable
	@PYTHONPATH=libs/cauce/src $(BENCH_VENV)/bin/python benchmarks/$(WHICH).py

lock: $(READY) ## Renew requirements.lock (needs uv on PATH)
	uv lock --upgrade
	uv export --quiet --all-packages --all-groups --no-emit-workspace --no-emit-project --no-header --no-annotate --format requirements-txt -o requirements.lock
	uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 -c requirements.lock benchmarks/requirements.in -o benchmarks/requirements.lock
	@touch $(READY)

sbom: $(READY) ## Write sbom.cdx.json: a CycloneDX bill of materials of all that is locked
	@$(BIN)/python scripts/sbom.py sbom.cdx.json

clean: ## Remove .venv and the data of the embedded servers
	rm -rf $(VENV) $(BENCH_VENV) .cauce
