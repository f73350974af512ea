# The targets that people and CI call. `make run` and `make test` do all set-up themselves.
SHELL := /bin/bash
PY := .venv/bin/python
TESTS ?= tests
ARGS ?=

.PHONY: setup run check test test-fast bench clean

setup:            ## everything for development: packages, virtual environment
	scripts/debian-packages.sh
	scripts/python.sh dev
	scripts/python.sh peers
	@# Without these peers their tests say NOT RUN and why; a registry that is away stops nothing else.
	scripts/ditto-clients.sh || echo "Not all of Ditto's clients could be had: their tests do not run." >&2
	scripts/hono-clients.sh || echo "Not all of Hono's parts could be had: their tests do not run." >&2
	scripts/kafka.sh || echo "No Kafka broker could be had: its tests do not run." >&2
	scripts/amqp-peers.sh || echo "rhea could not be had: its tests do not run." >&2
	scripts/grafana-schema.sh || echo "Grafana's types could not be had: what checks dashboards by them does not run." >&2
	scripts/console.sh --packages || echo "The console's tools could not be had: its tests do not run." >&2
	scripts/go-peers.sh || echo "Not all peers in Go could be built: their tests do not run." >&2

run:              ## start everything on this machine with sample data (wheels only, no root)
	@scripts/python.sh run
	.venv/bin/twinspan up --demo $(ARGS)

check:            ## format, lint, types, import contract, changelog
	@scripts/python.sh dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) scripts/check_changelog.py

test: setup       ## every test, set-up included
	$(PY) -m pytest -n 3 --dist loadfile $(TESTS) $(ARGS)

test-fast:        ## unit, contract and scenarios: under a minute
	@scripts/python.sh dev
	$(PY) -m pytest -q tests/unit tests/contract tests/scenarios $(ARGS)

bench: setup      ## the benchmarks, as ratios to a peer in the same run
	scripts/bench-peers.sh || echo "Some peers could not be had: what compares with them says so." >&2
	.venv/bin/twinspan bench --all $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
