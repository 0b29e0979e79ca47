# Everything a checkout can do. Needs Python 3.11 or newer, git and make; the rest is installed by these targets, into .venv
# and the user's cache folder. `make` alone lists them.

PYTHON ?= $(shell tools/python.sh)
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/countersign
BIN := .venv/bin

export CHECKOUT_CACHE := $(CACHE)
export PIP_CACHE_DIR ?= $(CACHE)/pip
export MYPY_CACHE_DIR ?= $(CACHE)/mypy
export RUFF_CACHE_DIR ?= $(CACHE)/ruff
# pyright runs on the Node.js of a wheel, from the JavaScript in its own wheel, and looks for no newer version of itself.
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# A machine may be told to keep no bytecode; then each process of a test compiles all of it again, as no installed one does.
unexport PYTHONDONTWRITEBYTECODE

# Checks do not need one another; an older make runs them one by one.
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),-j2 --output-sync=target)
PYTEST := $(BIN)/python -m pytest -rs

.DEFAULT_GOAL := help
.PHONY: help demo up test check bench screenshots tools clean lock test-unit test-replay test-agents test-fuzz test-integration test-kubernetes test-browser test-acceptance test-chaos chaos conformance \
  venv-run venv-dev packages check-style check-format check-types check-pyright check-imports check-texts

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: venv-run ## see one change planned, countersigned and applied on this machine (DEMO_YES=1: agree to everything)
	@$(BIN)/countersign demo

up: venv-run ## run the whole service on this machine
	@$(BIN)/countersign up

test: ## run all tests, the cheap levels first
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-replay
	@$(MAKE) --no-print-directory test-agents
	@$(MAKE) --no-print-directory test-fuzz
	@$(MAKE) --no-print-directory test-integration
	@$(MAKE) --no-print-directory test-kubernetes
	$(if $(wildcard tests/browser/test_*.py),@$(MAKE) --no-print-directory test-browser)
	@$(MAKE) --no-print-directory test-acceptance
	@$(MAKE) --no-print-directory test-chaos
	@$(MAKE) --no-print-directory conformance

test-unit: venv-dev ## no process, socket or clock; the core has to be covered whole
	@$(BIN)/coverage run --data-file="$(CACHE)/coverage-$$$$" -m pytest -rs tests/unit && \
	  $(BIN)/coverage report --data-file="$(CACHE)/coverage-$$$$" --fail-under=100 --skip-covered --show-missing; \
	  code=$$?; rm -f "$(CACHE)/coverage-$$$$"; exit $$code

test-replay: venv-dev ## recorded histories against the workflows of today
	@$(PYTEST) tests/replay

test-agents: venv-dev ## people's own words against what tools say of themselves, and what that costs to read
	@$(PYTEST) -s tests/agent_eval

test-fuzz: venv-dev ## thousands of requests nobody would send on purpose, against the front (FUZZ=random: others every time)
	@$(PYTEST) -s tests/fuzz

test-integration: venv-dev packages tools-opentofu ## one real thing at a time: Temporal, Terraform, a database, the built wheel
	@$(PYTEST) tests/integration

test-kubernetes: venv-dev packages tools-kube ## releases and charts on a real control plane with simulated nodes
	@$(PYTEST) tests/kubernetes

test-browser: venv-dev ## the pages for people and the Temporal UI as they are used, in Chromium
	@tools/packages.sh $(PYTHON) browser
	@$(PYTEST) tests/browser

test-acceptance: venv-dev packages ## the service as installed, by a real MCP client and the command line
	@$(PYTEST) tests/acceptance

test-chaos: venv-dev packages ## a sample of the kill matrix, and that it would notice a mechanism that is missing
	@$(PYTEST) tests/chaos

conformance: venv-dev packages ## the official conformance suite and the Inspector, strict, against the front
	@$(BIN)/python -m tests.conformance

check: venv-dev ## style, types, layers and texts, in less than a minute
	@$(MAKE) --no-print-directory --keep-going $(TOGETHER) check-types check-pyright check-style check-format check-imports check-texts

check-style: venv-dev
	@$(BIN)/ruff check --quiet --output-format concise .

check-format: venv-dev
	@$(BIN)/ruff format --check --quiet --output-format concise . || { echo "Not formatted; mend with: $(BIN)/ruff format ."; exit 1; }

check-types: venv-dev
	@$(BIN)/mypy

check-pyright: venv-dev
	@$(BIN)/pyright

check-imports: venv-dev
	@$(BIN)/lint-imports --no-logo --cache-dir "$(CACHE)/imports"

check-texts: venv-dev
	@$(BIN)/python tools/check_texts.py

bench: venv-dev packages tools-kube ## measure what docs/targets.md promises, beside the raw tool (BENCH="--only reading --repeat 5")
	@$(BIN)/python -m tests.bench $(BENCH)

screenshots: venv-dev ## take the pictures in docs/screenshots anew, of a service of their own
	@tools/packages.sh $(PYTHON) browser
	@$(BIN)/python -m tests.browser.screenshots

# CHAOS: options, as --only "worker/*" --seed 5, --releases; MUTATE: one mechanism switched off, which has to fail; NAIVE: raw Terraform instead.
chaos: venv-dev packages tools-kube ## kill -9 of every part at every boundary of a run (CHAOS="--only worker/*", MUTATE=claim, NAIVE=1)
	@$(BIN)/python -m tests.chaos $(CHAOS) $(if $(MUTATE),--mutate $(MUTATE)) $(if $(NAIVE),--naive)

tools: ## build the pinned engines and servers that tests need from source, once per machine
	@$(PYTHON) tools/build.py "$(CACHE)"

lock: ## renew requirements/*.txt from pyproject.toml (UPGRADE=--upgrade takes newer versions)
	@tools/lock.sh $(UPGRADE)

clean: ## remove what these targets made in the checkout; the cache folder stays
	@rm -rf .venv .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	@echo "Caches for all checkouts are in $(CACHE)"

venv-run venv-dev: venv-%:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) tools/venv.py $*

packages:
	@tools/packages.sh $(PYTHON)

tools-%: # one of them
	@$(PYTHON) tools/build.py "$(CACHE)" $*
