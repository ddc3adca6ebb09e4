# Everything that a developer runs. `make` alone says what there is; each target sets up .venv first if it must.
#   make PYTHON=python3.13 setup    # another Python, 3.11 or newer
#   make test                       # before every push

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit integration e2e lint format bench bench-gpu bench-labels bench-steps bench-tiny k8s wheel clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## create .venv, or bring it up to date

define check-python
command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not here: $(another)" >&2; exit 1; }; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1), too old: $(another)" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
  { echo "$(PYTHON) cannot make environments: on Debian or Ubuntu, sudo apt install python3-venv" >&2; exit 1; }
endef
another := Python 3.11 or newer is needed; name one with make PYTHON=python3.13 setup

# An environment that is there and works is kept, whatever it was made with.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip' 2>/dev/null || { $(check-python); "$(PYTHON)" -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## distil the digits on this machine, in about a minute
	$(BIN)/teddy-cloud run

test: lint unit integration ## lint, then unit and integration tests

unit: $(STAMP) ## the fast tests
	$(BIN)/python -m pytest tests/unit

integration: $(STAMP) ## the tests that start processes
	$(BIN)/python -m pytest tests/integration

e2e: $(STAMP) ## the user's path and its faults, on a real cluster
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON=$(BIN)/python tests/e2e/run

lint: $(STAMP) ## style, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## rewrite the code in house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure what we claim on this CPU, in half an hour
	$(BIN)/python benchmarks/bench.py

bench-gpu: $(STAMP) ## the same on a GPU, in parts of a few minutes
	$(BIN)/python benchmarks/bench.py --device cuda

bench-steps: $(STAMP) ## measure how many steps distill needs
	$(BIN)/python benchmarks/fewer_steps.py

bench-labels: $(STAMP) ## measure what soft labels cost and bring
	$(BIN)/python benchmarks/soft_labels.py

bench-tiny: $(STAMP) ## measure our claims on Tiny ImageNet
	$(BIN)/python benchmarks/tiny_imagenet.py

k8s: $(STAMP) ## write the example manifests, and the tests' golden files, anew
	$(BIN)/python k8s/generate.py

wheel: $(STAMP) ## build the wheel and the sdist into dist/
	$(BIN)/python -m build

clean: ## remove what the targets above made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find teddy_ray cli tests benchmarks helm k8s -name __pycache__ -prune -exec rm -rf {} +
