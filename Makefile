# Everything a developer or a visitor starts here; `make help` lists it.
# Needs git, make and Python >= 3.11 with venv. The rest is installed into .venv and a cache folder.

PYTHON ?=
PY := .venv/bin/python
# Tests share the cores with the servers that they start: two workers are enough for any machine.
WORKERS ?= 2
# Where systemd runs, Debian's etcd would be started, today and at each boot.
PACKAGES := zsh fish chromium $(if $(wildcard /run/systemd/system),,etcd-server)
# Hundreds of processes import this package: compile it once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup servers packages test lint format types layers unit demo sandbox bench generate lock image node-test soak clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup:  ## make .venv with everything at locked versions
	@PYTHON="$(PYTHON)" tools/setup

servers: setup  ## build etcd, Kubernetes and Prometheus for the test bed, once (about 8 minutes)
	@$(PY) -m tests.testbed build

packages:  ## what some tests need of Debian 12: shells, a browser, etcd 3.4 (as root)
	apt-get update -qq
	for package in $(PACKAGES); do \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$package \
	        || echo "packages: no $$package to be had"; \
	done

test: lint servers  ## set up everything and run every test
	$(PY) -m pytest -n $(WORKERS) --dist worksteal

unit: setup  ## the tests that start no server
	$(PY) -m pytest tests/unit

lint: setup  ## style, types, layers, generated files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) tools/generate_crds.py --check
	$(PY) tools/generate_metrics_docs.py --check
	$(PY) tools/generate_etcd_stubs.py --check
	$(PY) tools/generate_alerts.py --check
	$(PY) tools/generate_dashboard.py --check

format: setup  ## mend style where a machine can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

demo: servers  ## the whole story on real servers, step by step
	@$(PY) -m tests.testbed demo

sandbox: servers  ## a control plane, an etcd and an S3 to play with
	@$(PY) -m tests.testbed up

bench: servers  ## the figures that the documentation names
	$(PY) -m benchmarks.snapshot --compressed
	$(PY) -m benchmarks.operator
	$(PY) -m benchmarks.listing
	$(PY) -m benchmarks.sidecar
	$(PY) -m benchmarks.namespace
	$(PY) -m benchmarks.export
	$(PY) -m benchmarks.hashkv
	$(PY) -m benchmarks.planning
	$(PY) -m benchmarks.restoring
	$(PY) -m benchmarks.observing
	$(PY) -m benchmarks.get

generate: setup  ## CRDs, schemas, stubs, alerts and dashboard from their sources
	$(PY) tools/generate_crds.py
	$(PY) tools/generate_metrics_docs.py
	$(PY) tools/generate_etcd_stubs.py
	$(PY) tools/generate_builtin_types.py
	$(PY) tools/generate_alerts.py
	$(PY) tools/generate_dashboard.py

lock: setup  ## resolve the dependencies anew
	.venv/bin/uv pip compile pyproject.toml --upgrade --universal --no-header --generate-hashes \
	    --build-constraints requirements/build-constraints.txt -q -o requirements/runtime.txt
	.venv/bin/uv pip compile pyproject.toml --group test --group lint --group generate --universal \
	    --no-header --generate-hashes --build-constraints requirements/build-constraints.txt \
	    -c requirements/runtime.txt -q -o requirements/dev.txt

image:  ## the container image (needs docker, podman or buildah; BASE=IMAGE names another base)
	$(or $(shell command -v docker),$(shell command -v podman),$(shell command -v buildah)) build \
	    $(if $(BASE),--build-arg BASE=$(BASE)) -t etcd-steward:dev .

node-test: setup  ## deploy/ in Pods on a real Kubernetes node, in namespaces of its own (needs root)
	@$(PY) -m tests.testbed.node
	$(PY) -m pytest tests/node

soak: servers  ## ten simulated weeks of an hourly schedule, with kills and outages (about two hours); restores that stay
	DELETED_FOR=240 RESTORED_FOR=300 $(PY) -m pytest tests/integration/restore/test_apply_namespaces.py
	RETAINED_FOR=600 $(PY) -m pytest tests/faults/test_rescue.py
	STEWARD_SOAK=hourly $(PY) -m pytest tests/e2e/test_standing_weeks.py -o log_cli=true

clean:  ## remove what was built here; the cache folder of the servers stays
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
