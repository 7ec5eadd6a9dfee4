# Everything that a developer does here. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup compiled up down status demo run-cdc check test test-unit test-contract test-integration test-e2e bench bench-capture \
	bench-mail chaos-capture chaos-consumers clean

python := build/venv/bin/python
settings := build/local/pgherald.toml
# what is imported with it is what users install, not this folder
compiled := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR)

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: system packages, virtual environment, Kafka
	@bash deploy/local/setup.sh

compiled: setup ## make the wheel that users install, its inner loop compiled: what the benches run
	@bash deploy/local/setup.sh compiled

up: setup ## start PostgreSQL, Kafka, a mail inbox and a webhook receiver on this machine
	@$(python) -m deploy.local.stack up

down: ## stop them; PURGE=1 also removes what they stored
	@[ ! -x $(python) ] || $(python) -m deploy.local.stack down $(if $(PURGE),--purge)

status: ## say which of them run
	@[ ! -x $(python) ] || $(python) -m deploy.local.stack status

demo: setup ## users register, mails and service calls follow; KEEP=1 leaves everything running
	@KEEP=$(KEEP) $(python) -m deploy.local.demo

run-cdc: up ## run the reader on the local stack, starting the stack if it is not up
	@exec build/venv/bin/pgherald capture --config $(settings)

check: setup ## ruff, mypy, import-linter
	@build/venv/bin/ruff check
	@build/venv/bin/ruff format --check
	@build/venv/bin/mypy
	@build/venv/bin/lint-imports

test: check ## every check and every test, three files at a time, the longest first
	@$(python) -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/chaos tests/e2e tests/integration tests/contract tests/unit

test-unit test-contract test-integration test-e2e: test-%: setup
	@$(python) -m pytest tests/$*

test-unit: ## the tests of pure parts
test-contract: ## the tests of what others rely on: envelope, templates
test-integration: ## the tests on real servers: containers where Docker answers, else local processes
test-e2e: ## the tests that run the commands, kill them and audit

bench: bench-capture bench-mail ## both benches, one after the other; takes most of an hour and wants a quiet machine

bench-capture bench-mail: bench-%: compiled
	@cmp -s deploy/requirements/bench.txt build/bench/requirements.txt || { \
	  $(python) -m pip install -q --disable-pip-version-check --require-hashes -r deploy/requirements/bench.txt && \
	  mkdir -p build/bench && cp deploy/requirements/bench.txt build/bench/requirements.txt; }
	@$(compiled) $(python) -m tests.bench.$* $(ARGS)

bench-capture: ## the reader beside pg_recvlogical and Debezium, on the same rows; ARGS="--scale 0.1 --runs 1" for a look
bench-mail: ## the mailer beside Flask-Mail and smtplib, at the same relay; ARGS="--mails 1000 --runs 1" for a look

rounds := --rounds $(or $(ROUNDS),25) --seed $(or $(SEED),1) --brokers $(or $(BROKERS),1)

chaos-capture: setup ## random faults against the reader, then an audit; ROUNDS=25, SEED=1 (a seed replays), BROKERS=1 or 3
	@$(python) -m tests.chaos.capture $(rounds)

chaos-consumers: setup ## random faults against mailers and callers, then an audit; ROUNDS=25, SEED=1, BROKERS=1 or 3
	@$(python) -m tests.chaos.deliveries $(rounds)

clean: ## remove build/, after stopping what runs from it
	@$(MAKE) --no-print-directory down PURGE=1
	rm -rf build *.egg-info
